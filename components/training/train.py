"""The loop, readable from top to bottom: one stage, its best epoch kept as a checkpoint."""

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.augmentations import AUGMENTATIONS
from components.choose import choose
from components.data.crops import Crop, central_crop, random_resized_crop
from components.data.index import Index
from components.data.stream import Stream
from components.models.build import Model
from components.models.checkpoint import hash_checkpoint, provenance_of, save_checkpoint
from components.objectives import choose_objective
from components.tensors import Images, Targets, best_device
from components.tracking import UNTRACKED, Run
from components.training.config import TrainingConfig
from components.training.initial import initial_model
from components.training.learner import Learner
from components.training.processes import Processes, joined
from components.training.state import TrainingState
from components.training.validation import look_at, validate, zero_gradients


class TrainingCollapsed(RuntimeError):
    """A training from fresh weights whose first epoch collapsed: there is nothing to keep."""


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
        TrainingCollapsed: training collapsed in its first epoch, from fresh weights.
        OSError: there is no room for the state.
    """
    with joined() as processes, torch.random.fork_rng():
        check_processes(settings, processes.world)
        training, validation = streams(settings, data, processes, state and state / "shards")
        torch.manual_seed(settings.seed)
        say = partial(_say, run, processes)
        model = initial_model(settings, training.index, initial, say=say).to(best_device())
        objective = choose_objective(settings.objective)
        objective.prepare(model)
        _refuse_a_lone_image(model, training)
        learner = Learner(model, objective, settings, len(training), processes)
        kept = state and TrainingState(state, _identity(settings, training.index, initial))
        if kept and (known := kept.load()):
            learner.restore(known)
        else:
            learner.keep(validate(learner.judged, validation, settings, processes))
        _go_on(learner, training, validation, settings, processes, kept or None, run)
        if learner.ended and initial is None and learner.kept["epoch"] == 0:
            raise TrainingCollapsed(
                f"{learner.ended}, after the first epoch already, so there is none to keep; lower "
                "learning_rate, epsilon or collapse_epsilon, or attack with more steps"
            )
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
                images, targets = batch.images.to(device), batch.targets.to(device)
                whole = len(images) == training.batch_images(learner.batch)
                learner.step(images, targets, rows=batch.rows, whole=whole)
                progress.advance(note=f"epoch {learner.epoch + 1} of {settings.epochs}")
                due = time.monotonic() - saved >= settings.state_seconds
                if kept and processes.agree(due):
                    learner.check()
                    _save(learner, kept, processes)
                    saved = time.monotonic()
            learner.end_batches()
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
                _save(learner, kept, processes)
        progress.advance(progress.total - progress.done)
    if learner.ended:
        _say(run, processes, f"ended after epoch {learner.epoch}: {learner.ended}")


def _refuse_a_lone_image(model: Model, training: Stream) -> None:
    """Find out now what torch would say at the end of the first epoch.

    Raises:
        ValueError: the last batch has one image, and no statistics.
    """
    left = training.batch_images(len(training) - 1)
    if left == 1 and any(isinstance(part, nn.BatchNorm1d) for part in model.modules()):
        raise ValueError(
            f"{training.num_images} images leave one alone in the last batch, which BatchNorm "
            "cannot normalise; take another batch_size"
        )


def _save(learner: Learner, kept: TrainingState, processes: Processes) -> None:
    state = learner.state()
    if processes.leads:
        kept.save(state)


def _say(run: Run, processes: Processes, words: str) -> None:
    """Let one process tell for all."""
    if processes.leads:
        print(f"{run.name}: {words}")


def _identity(settings: TrainingConfig, index: Index, initial: Path | None) -> dict[str, Any]:
    """Say what the trained weights depend on."""
    return {
        "settings": json.loads(settings.to_json()) | {"state_seconds": None, "processes": None},
        "data": index.fingerprint,
        "initial": hash_checkpoint(initial) if initial else None,
    }


def check_processes(settings: TrainingConfig, started: int) -> None:
    """Refuse a number of processes that somebody else has decided otherwise.

    Args:
        settings: of the stage.
        started: how many share every batch.

    Raises:
        ValueError: the settings ask for another number.
    """
    if settings.processes not in (0, started):
        raise ValueError(
            f"processes must be 0 or the number that is started here, {started}, "
            f"got {settings.processes}"
        )


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
