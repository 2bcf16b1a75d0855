"""The loop, readable from top to bottom: one stage, its best epoch kept as a checkpoint."""

import copy
import json
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from components.attacks import ATTACKS
from components.attacks.gradients import untouched
from components.augmentations import AUGMENTATIONS
from components.choose import choose
from components.config import Choice
from components.data.batches import Split, in_order, read_split, shuffled
from components.data.shards import Index, read_index
from components.defences.defended import honest_view
from components.models.build import Model, ModelSpec, build_model
from components.models.checkpoint import load_checkpoint, save_checkpoint
from components.objectives import choose_objective
from components.tensors import Images, Targets, best_device
from components.tracking import UNTRACKED, Run
from components.training.config import TrainingConfig
from components.training.schedules import SCHEDULES

Augment = Callable[[Images, Targets], tuple[Images, Targets]]


def train(
    settings: TrainingConfig,
    *,
    data: Path,
    target: Path,
    initial: Path | None = None,
    run: Run = UNTRACKED,
) -> dict[str, float]:
    """Train for one stage and keep its best epoch on the validation split.

    Args:
        settings: the stage.
        data: folder of shards.
        target: receives the checkpoint.
        initial: checkpoint to start from; None starts from fresh weights.
        run: gets curves and progress.

    Returns:
        Figures of the kept epoch: its number ``epoch``, ``validation_clean_accuracy`` and, where
        an attack selects, ``validation_robust_accuracy``.

    Raises:
        ValueError: settings, data and initial model do not fit together.
        FloatingPointError: the loss became infinite or not a number.
    """
    index = read_index(data)
    training, validation = read_split(data, "train"), read_split(data, "validation")
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = initial_model(settings, index, initial).to(best_device())
        objective, augment = choose_objective(settings.objective), _augmentation(settings)
        optimizer = _optimizer(settings, model)
        batches = -(-len(training.labels) // settings.batch_size)
        kept, best = validate(model, validation, settings), copy.deepcopy(model.state_dict())
        kept |= {"epoch": 0}
        with run.progress(settings.epochs * batches, "batches") as progress:
            for epoch in range(settings.epochs):
                model.train()
                sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
                shuffle = shuffled(training, settings.batch_size, seed=settings.seed, epoch=epoch)
                for batch, (images, labels) in enumerate(shuffle):
                    step = epoch * batches + batch
                    _set_learning_rate(optimizer, settings, step / (settings.epochs * batches))
                    targets = functional.one_hot(labels, len(index.classes)).float()
                    images, targets = augment(images.to(best_device()), targets.to(best_device()))
                    losses = objective(model, images, targets, seed=settings.seed + step)
                    optimizer.zero_grad()
                    losses["loss"].backward()
                    optimizer.step()
                    for name, value in losses.items():
                        sums[name] = sums[name] + value.detach() * len(labels)
                    progress.advance(note=f"epoch {epoch + 1} of {settings.epochs}")
                curves = {name: float(s) / len(training.labels) for name, s in sums.items()}
                _check_finite(curves["loss"], epoch)
                scores = validate(model, validation, settings)
                run.metrics({**curves, **scores}, step=epoch + 1)
                if _rank(scores) > _rank(kept) or kept["epoch"] == 0:
                    kept, best = {**scores, "epoch": epoch + 1}, copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    provenance = {
        "stage": run.name,
        "settings": json.loads(settings.to_json()),
        "data": index.fingerprint,
        "kept": kept,
    }
    save_checkpoint(model.cpu(), target, provenance=provenance)
    return kept


def initial_model(settings: TrainingConfig, index: Index, initial: Path | None) -> Model:
    """Build the stage's model, with fresh weights or those of the initial checkpoint.

    The backbone's weights are taken over; a defence keeps its own where both models wear the same.

    Raises:
        ValueError: there is neither a backbone nor an initial model, or the two disagree, or the
            initial model tells other classes apart than the data has.
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
    model = build_model(replace(start.spec, defences=settings.defences))
    if settings.defences == start.spec.defences:
        model.load_state_dict(start.state_dict())
    else:
        model.backbone.load_state_dict(start.backbone.state_dict())
    return model


def validate(model: Model, split: Split, settings: TrainingConfig) -> dict[str, float]:
    """Measure clean accuracy, and robust accuracy if an attack selects, on the validation split.

    The attack goes through the honest view, and its images are judged by the model as it is.
    """
    clean = robust = 0
    attack = settings.selection and choose(ATTACKS, settings.selection, given=("seed",))
    with untouched(model):
        for images, labels in in_order(split, settings.batch_size):
            images, labels = images.to(best_device()), labels.to(best_device())
            clean += _count_correct(model, images, labels)
            if attack:
                attacked = attack(honest_view(model), images, labels, seed=settings.seed)
                robust += _count_correct(model, attacked, labels)
    scores = {"validation_clean_accuracy": clean / len(split.labels)}
    if attack:
        scores["validation_robust_accuracy"] = robust / len(split.labels)
    return scores


def _fresh_spec(settings: TrainingConfig, backbone: Choice, index: Index) -> ModelSpec:
    return ModelSpec(
        backbone=backbone,
        defences=settings.defences,
        classes=index.classes,
        image_shape=index.image_shape,
        mean=index.mean,
        deviation=index.deviation,
    )


def _augmentation(settings: TrainingConfig) -> Augment:
    generator = torch.Generator(best_device()).manual_seed(settings.seed)
    chain = [choose(AUGMENTATIONS, a, given=("generator",)) for a in settings.augmentations]

    def augment(images: Images, targets: Targets) -> tuple[Images, Targets]:
        for operation in chain:
            images, targets = operation(images, targets, generator=generator)
        return images, targets

    return augment


def _optimizer(settings: TrainingConfig, model: nn.Module) -> Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(model.parameters(), rate, momentum=settings.momentum, weight_decay=decay)
    return Adam(model.parameters(), rate, weight_decay=decay)


def _set_learning_rate(optimizer: Optimizer, settings: TrainingConfig, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * SCHEDULES[settings.schedule](done)


def _check_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} in epoch {epoch + 1}; lower learning_rate or epsilon"
        )


@torch.no_grad()
def _count_correct(model: nn.Module, images: Images, labels: Tensor) -> int:
    return int((model(images).argmax(1) == labels).sum())


def _rank(scores: dict[str, float]) -> tuple[float, float]:
    """Robust accuracy chooses; clean accuracy breaks ties, or chooses where nothing attacks."""
    clean = scores["validation_clean_accuracy"]
    return scores.get("validation_robust_accuracy", 0.0), clean
