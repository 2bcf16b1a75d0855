"""Initial model: what a stage starts from, with fresh weights or those of another stage."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from components.config import Choice
from components.data.index import Index
from components.defences.defended import Defended
from components.models.build import Model, ModelSpec, build_model
from components.models.checkpoint import load_checkpoint
from components.training.config import TrainingConfig


def initial_model(
    settings: TrainingConfig,
    index: Index,
    initial: Path | None,
    *,
    say: Callable[[str], None] = print,
) -> Model:
    """Build the stage's model, with fresh weights or those of the initial checkpoint.

    The backbone's weights are taken over, and those of each defence that both models wear.

    Args:
        settings: of the stage.
        index: of the data.
        initial: checkpoint to start from, if any.
        say: is told of every defence whose weights are lost or start afresh.

    Raises:
        ValueError: there is neither a backbone nor an initial model, or the two disagree, or the
            initial model knows other classes or another size of images than the data has.
    """
    if initial is None:
        if settings.backbone is None:
            raise ValueError("a stage without an initial model needs a backbone")
        return build_model(_fresh_spec(settings, settings.backbone, index))
    start = load_checkpoint(initial)
    if settings.backbone not in (None, start.spec.backbone):
        raise ValueError(
            f"the initial model's backbone is {start.spec.backbone}, the settings ask for "
            f"{settings.backbone}; leave the backbone out to take the initial model's"
        )
    if start.spec.classes != index.classes:
        raise ValueError(
            f"the initial model knows the classes {list(start.spec.classes)}, "
            f"the data has {list(index.classes)}"
        )
    if start.spec.image_shape != index.image_shape:
        raise ValueError(
            f"the initial model sees images of {_size(start.spec.image_shape)}, "
            f"the data has {_size(index.image_shape)}"
        )
    model = build_model(replace(start.spec, defences=settings.defences))
    for notice in _inherit(model, start):
        say(notice)
    return model


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height} x {width} pixels in {channels} channel{'s' * (channels > 1)}"


def _fresh_spec(settings: TrainingConfig, backbone: Choice, index: Index) -> ModelSpec:
    return ModelSpec(
        backbone=backbone,
        defences=settings.defences,
        classes=index.classes,
        image_shape=index.image_shape,
        mean=index.mean,
        deviation=index.deviation,
    )


def _inherit(model: Model, start: Model) -> list[str]:
    """Load the weights of a model's backbone, and those of every defence that both models wear.

    Defences without weights of their own may come and go, also between those that have some.

    Args:
        model: with the same backbone.
        start: what the weights are taken from.

    Returns:
        A sentence for each defence whose weights are fresh, or lost.
    """
    model.backbone.load_state_dict(start.backbone.state_dict())
    for module in model.modules():
        if isinstance(module, Defended):
            module.renew()
    learnt, notices = _with_weights(start), []
    for words, defence in _with_weights(model):
        same = [pair for pair in learnt if pair[0] == words and _fits(defence, pair[1])]
        if same:
            defence.load_state_dict(_own_weights(same[0][1]), strict=False)
            learnt.remove(same[0])
        else:
            notices.append(f"{words} starts from fresh weights: the initial model has no such")
    lost = [
        f"{words} of the initial model is left out, with what it has learnt" for words, _ in learnt
    ]
    return notices + lost


def _with_weights(model: Model) -> list[tuple[Choice, Defended]]:
    """Give the defences that have weights of their own, with their words."""
    worn, network = [], model.network
    for words in reversed(model.spec.defences):
        assert isinstance(network, Defended)
        if _own_weights(network):
            worn.append((words, network))
        network = network.inner
    return worn


def _own_weights(defence: Defended) -> dict[str, Tensor]:
    state = defence.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("inner.")}


def _fits(defence: Defended, other: Defended) -> bool:
    """Say whether weights go by the same names; a copied trunk has those of what it is inside."""
    return _own_weights(defence).keys() == _own_weights(other).keys()
