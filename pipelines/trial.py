"""Try the choices of a recipe on a toy image and a toy model, in milliseconds."""

import inspect
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from components.attacks import ATTACKS
from components.augmentations import AUGMENTATIONS
from components.choose import choose
from components.config import Choice
from components.data.sources import SOURCES
from components.defences import DEFENCES
from components.defences.defended import honest_view
from components.models import BACKBONES
from components.models.build import ModelSpec, build_model
from components.models.units import check_narrowable
from components.models.weights import divide_choice
from components.objectives import choose_objective
from components.pruning.config import PruningConfig
from components.pruning.prune import METHODS
from components.training.optimizers import OPTIMIZERS
from components.training.schedules import SCHEDULES, Moment

_IMAGES = torch.full((2, 1, 8, 8), 0.5)
_LABELS = torch.tensor([0, 1])
_REPETITIONS = ("steps", "queries", "restarts", "search_steps", "trials", "samples")
# These name parts of the real network, which the toy does not have.
_BLOCKS = ("levels", "denoise_at", "layer")
_TARGETS = torch.eye(4)[_LABELS]  # as many classes as the most demanding loss needs


def try_source(choice: Choice) -> None:
    """Look a source up with its options; reading it is the first step's work."""
    choose(SOURCES, choice)


def try_backbone(choice: Choice) -> None:
    """Build a backbone without its weights' memory, and without downloading any."""
    choice, source = divide_choice(choice)
    build = choose(BACKBONES, choice, given=("image_size",))
    with torch.device("meta"):
        network = build(len(_TARGETS[0]), _IMAGES.shape[1])
    if source.units is not None:
        check_narrowable(network)


def try_defence(choice: Choice) -> None:
    """Put a defence on the toy model, and look at it honestly."""
    honest_view(_wear(_toy(), choice))(_IMAGES)


def try_attack(choice: Choice) -> None:
    """Attack the toy model, with no more than two repetitions of anything."""
    attack = choose(ATTACKS, choice, given=("seed", "batch_size"))
    options = inspect.signature(attack).parameters
    counts = {name: options[name].default for name in _REPETITIONS if name in options}
    fewer = {name: min(n, 2) for name, n in counts.items() if n is not None}
    attack(_toy(), _IMAGES, _LABELS, seed=0, **fewer)


def try_objective(choice: Choice, defences: Sequence[Choice] = ()) -> None:
    """Take the objective's losses on the toy model, which wears the stage's defences.

    Where objectives take turns, each of them has its own.
    """
    model = _toy()
    for defence in defences:
        model = _wear(model, defence)
    choose_objective(choice)  # refuses names of blocks where there can be none
    objective = choose_objective(_toyish(choice))
    objective.prepare(model)
    for epoch in (0, *_turns(choice)):
        objective(model.train(), _IMAGES, _TARGETS, seed=0, epoch=epoch)


def try_method(choice: Choice) -> None:
    """Begin to prune a small network."""
    spec = ModelSpec(
        backbone={"name": "lenet5", "widths": [1, 1, 1, 1]},
        classes=("no", "yes"),
        image_shape=(1, 28, 28),
        mean=(0.5,),
        deviation=(0.5,),
    )
    settings = PruningConfig(attack=None, vulnerability_weight=0.0)
    with torch.random.fork_rng():
        choose(METHODS, choice)(build_model(spec), settings, 1, 1)


def try_optimizer(choice: Choice) -> None:
    """Set the update rule up."""
    weights = [torch.zeros(1, requires_grad=True)]
    choose(OPTIMIZERS, choice)([{"params": weights, "lr": 1.0, "weight_decay": 0.0}])


def try_schedule(choice: Choice) -> None:
    """Ask for the learning rate at the start."""
    choose(SCHEDULES, choice)(Moment(0.0, 1))


def try_augmentation(choice: Choice) -> None:
    """Augment the toy images."""
    augment = choose(AUGMENTATIONS, choice, given=("generator",))
    augment(_IMAGES, _TARGETS, generator=torch.Generator().manual_seed(0))


def _wear(model: nn.Module, choice: Choice) -> nn.Module:
    choose(DEFENCES, choice)  # refuses names of blocks where there can be none
    return choose(DEFENCES, _toyish(choice))(model)


def _toyish(choice: Choice) -> Choice:
    """Leave out what names blocks, also in what the choice chooses."""
    return {
        key: _toyish(value) if isinstance(value, Mapping) else value
        for key, value in choice.items()
        if key not in _BLOCKS
    }


def _turns(choice: Choice) -> Iterator[int]:
    """Give the epochs in which another objective takes over."""
    for key, value in choice.items():
        if isinstance(value, Mapping):
            yield from _turns(value)
        elif key == "epochs":
            yield value


def _toy() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Conv2d(_IMAGES.shape[1], 2, 3, stride=2, padding=1)
        # Maps of two sizes, as a pyramid needs, and a head that reads their mean, as cam does.
        pools = nn.AdaptiveAvgPool2d(4), nn.AdaptiveAvgPool2d(1)
        head = nn.Flatten(), nn.Linear(2, len(_TARGETS[0]))
        toy = nn.Sequential(convolution, nn.ReLU(), *pools, *head)
        toy.latent_features = ("1",)  # type: ignore[assignment]
        return toy
