"""The loop, readable from top to bottom: one stage, its best epoch kept as a checkpoint."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from components.augmentations import AUGMENTATIONS
from components.choose import choose
from components.config import Choice
from components.data.crops import Crop, central_crop, random_resized_crop
from components.data.index import Index
from components.data.stream import Stream
from components.defences.defended import Defended
from components.models.build import Model, ModelSpec, build_model
from components.models.checkpoint import (
    hash_checkpoint,
    load_checkpoint,
    provenance_of,
    save_checkpoint,
)
from components.objectives import choose_objective
from components.tensors import Images, Targets, best_device
from components.tracking import UNTRACKED, Run
from components.training.config import TrainingConfig
from components.training.learner import Learner
from components.training.processes import Processes, joined
from components.training.state import TrainingState
from components.training.validation import look_at, validate, zero_gradients


def train(
    settings: TrainingConfig,
    *,
    data: Path,
    target: Path,
    initial: Path | None = None,
    state: Path | None = None,
    run: Run = UNTRACKED,
) -> dict[str, float]:
    """Train for one stage and keep its best epoch on the validation split.

    Args:
        settings: the stage.
        data: folder of shards.
        target: receives the checkpoint.
        initial: checkpoint to start from; None starts from fresh weights.
        state: folder in which the state of training is kept until the end. A training that was
            killed goes on from there, to the same weights, bit by bit on a CPU. None keeps none.
        run: gets curves and progress.

    Returns:
        Figures of the kept epoch: its number ``epoch``, ``validation_clean_accuracy`` and, where
        an attack selects, ``validation_robust_accuracy``.

    Raises:
        ValueError: settings, data and initial model do not fit together, or the state is that of
            another training.
        FloatingPointError: the loss became infinite or not a number.
        OSError: there is no room for the state.
    """
    with joined() as processes, torch.random.fork_rng():
        training, validation = streams(settings, data, processes, state and state / "shards")
        torch.manual_seed(settings.seed)
        model = initial_model(settings, training.index, initial).to(best_device())
        objective = choose_objective(settings.objective)
        objective.prepare(model)
        learner = Learner(model, objective, settings, len(training), processes)
        kept = state and TrainingState(state, _identity(settings, training.index, initial))
        if kept and (known := kept.load()):
            learner.restore(known)
        else:
            learner.keep(validate(learner.judged, validation, settings, processes))
        _go_on(learner, training, validation, settings, processes, kept or None, run)
        if processes.leads:
            provenance = {
                "stage": run.name,
                "settings": json.loads(settings.to_json()),
                "data": training.index.fingerprint,
                "kept": learner.kept,
                "ended": learner.ended,
                "history": learner.history,
                **provenance_of(initial),
            }
            save_checkpoint(learner.finish().cpu(), target, provenance=provenance)
            if state:
                shutil.rmtree(state, ignore_errors=True)
        processes.wait()
    return learner.kept


def _go_on(
    learner: Learner,
    training: Stream,
    validation: Stream,
    settings: TrainingConfig,
    processes: Processes,
    kept: TrainingState | None,
    run: Run,
) -> None:
    """Train from wherever the learner is to the end."""
    batches, device = len(training), best_device()
    with run.progress(settings.epochs * batches, "batches") as progress:
        progress.advance(learner.epoch * batches + learner.batch)
        while not learner.done:
            learner.begin_epoch()
            saved = time.monotonic()
            for batch in training.epoch(learner.epoch, learner.batch):
                share = len(batch.images) / training.batch_images(learner.batch)
                images, targets = batch.images.to(device), batch.targets.to(device)
                learner.step(images, targets, rows=batch.rows, share=share)
                progress.advance(note=f"epoch {learner.epoch + 1} of {settings.epochs}")
                if kept and processes.leads and time.monotonic() - saved >= settings.state_seconds:
                    kept.save(learner.state())
                    saved = time.monotonic()
            learner.end_batches()
            processes.share_buffers(learner.judged)
            scores = validate(learner.judged, validation, settings, processes)
            if settings.collapse_epsilon:
                learner.watch(look_at(learner.judged, validation, settings, processes))
            curves = learner.finish_epoch(scores)
            if settings.selection:
                zeros = zero_gradients(learner.judged, validation, settings, processes)
                curves["zero_gradients"] = zeros
            if processes.leads:
                run.metrics({**curves, **scores}, step=learner.epoch)
                if kept:
                    kept.save(learner.state())
        progress.advance(progress.total - progress.done)
    if learner.ended and processes.leads:
        print(f"{run.name}: ended after epoch {learner.epoch}: {learner.ended}")


def _identity(settings: TrainingConfig, index: Index, initial: Path | None) -> dict[str, Any]:
    """Say what the trained weights depend on."""
    return {
        "settings": json.loads(settings.to_json()) | {"state_seconds": None, "processes": None},
        "data": index.fingerprint,
        "initial": hash_checkpoint(initial) if initial else None,
    }


def streams(
    settings: TrainingConfig,
    data: Path,
    processes: Processes | None = None,
    cache: Path | None = None,
) -> tuple[Stream, Stream]:
    """Give the batches to train on and those to validate on.

    The threads that read the images augment them as well. A random resized crop that comes first,
    and a horizontal flip after it, are made on the image as it was stored, which may be larger than
    what the model sees, and in 8 bits, which is several times as fast.

    Args:
        settings: of the stage.
        data: folder of shards.
        processes: among which each batch is shared out.
        cache: folder that keeps shards from a bucket, each checked once against its hash.

    Raises:
        ValueError: there are fewer images in a batch than processes, an augmentation does not exist
            or has other options, or there are no shards.
    """
    chain = [choose(AUGMENTATIONS, a, given=("generator",)) for a in settings.augmentations]
    names = [a["name"] for a in settings.augmentations]
    crop: Crop = central_crop
    if names[:1] == ["random_resized_crop"] and not settings.augmentations[0].get("size"):
        crop = partial(random_resized_crop, smallest_area=_option(chain.pop(0), "smallest_area"))
        if names[1:2] == ["horizontal_flip"]:
            crop = partial(crop, mirrored=_option(chain.pop(0), "probability"))

    def augment(
        images: Images, targets: Targets, *, generator: torch.Generator
    ) -> tuple[Images, Targets]:
        for operation in chain:
            images, targets = operation(images, targets, generator=generator)
        return images, targets

    together = processes or Processes()
    if settings.batch_size < together.world:
        raise ValueError(
            f"batch_size must be at least the number of processes, {together.world}, "
            f"got {settings.batch_size}"
        )
    read = partial(
        Stream,
        data,
        batch_size=settings.batch_size,
        rank=together.rank,
        world=together.world,
        cache=cache,
    )
    training = read("train", seed=settings.seed, crop=crop, augment=augment)
    return training, read("validation")


def _option(function: Callable[..., Any], name: str) -> Any:
    """Give the value that a function has for an option, chosen or by default."""
    return signature(function).parameters[name].default


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
        for module in model.modules():
            if isinstance(module, Defended):
                module.renew()
    return model


def _fresh_spec(settings: TrainingConfig, backbone: Choice, index: Index) -> ModelSpec:
    return ModelSpec(
        backbone=backbone,
        defences=settings.defences,
        classes=index.classes,
        image_shape=index.image_shape,
        mean=index.mean,
        deviation=index.deviation,
    )
