"""Prune a model by one of the methods, and keep the narrower or sparser network."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from components.augmentations import AUGMENTATIONS
from components.choose import choose
from components.data.batches import Split, in_order, read_split, shuffled
from components.data.index import Index, read_index
from components.models.build import Model
from components.models.checkpoint import (
    hash_checkpoint,
    load_checkpoint,
    provenance_of,
    save_checkpoint,
)
from components.models.costs import costs
from components.pruning.admm import AdmmPruning
from components.pruning.config import PruningConfig
from components.pruning.dependent import DependentPruning
from components.pruning.gated import GatedPruning
from components.pruning.gates import gate_widths
from components.pruning.measures import zero_weights
from components.tensors import Images, Labels, Targets, best_device
from components.tracking import UNTRACKED, Run
from components.training.state import TrainingState

GATES = "gates.json"
"""The file beside a pruned checkpoint that holds every gate's keep probabilities."""

_LARGEST_DIFFERENCE = 1e-4


class InexactPruning(RuntimeError):
    """A narrower network that does not decide as the one it was cut from."""


Method: TypeAlias = AdmmPruning | DependentPruning | GatedPruning
"""Learns on one batch after another what to leave of a model."""

METHODS: dict[str, Callable[..., Method]] = {
    "admm": AdmmPruning,
    "dependent_gates": DependentPruning,
    "gates": GatedPruning,
}


def prune(
    settings: PruningConfig,
    *,
    data: Path,
    initial: Path,
    target: Path,
    state: Path | None = None,
    run: Run = UNTRACKED,
) -> dict[str, float]:
    """Prune a model under attack.

    Args:
        settings: how.
        data: folder of shards.
        initial: checkpoint of a trained model.
        target: receives the checkpoint of the narrower model, and beside it ``gates.json``.
        state: folder in which the state of pruning is kept until the end. A pruning that was killed
            goes on from there, to the same weights, bit by bit on a CPU. None keeps none.
        run: gets curves and progress.

    Returns:
        ``sparsity``, the share of units removed; ``zero_weights``, the share of zeros among the
        weights that are left; ``flops_ratio`` and ``size_ratio``, how many times fewer operations
        and parameters are left; ``max_logit_difference`` between the model as pruned and the
        narrower one on the validation split; ``units.<layer>``, how many are left.

    Raises:
        ValueError: the settings are not as described, no gates fit the model's backbone, or the
            state is that of another pruning.
        FloatingPointError: a loss became infinite or not a number.
        InexactPruning: the narrower model differs from the pruned one.
        OSError: there is no room for the state.
    """
    index, training = read_index(data), read_split(data, "train")
    original = load_checkpoint(initial)
    batches = -(-len(training) // settings.batch_size)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        method = choose(METHODS, settings.method)(original, settings, len(training), batches)
        kept = TrainingState(state, _identity(settings, index, initial)) if state else None
        course = _Course(method, settings, batches)
        if kept and (known := kept.load()):
            course.restore(known)
        course.go_on(training, kept, run)
        pruned, compact = method.finish()
    figures = _figures(original, compact)
    figures["max_logit_difference"] = _compare(pruned, compact, read_split(data, "validation"))
    provenance = {
        "stage": run.name,
        "settings": json.loads(settings.to_json()),
        "data": index.fingerprint,
        **provenance_of(initial),
        "figures": {**figures, **method.curves()},
    }
    save_checkpoint(compact, target, provenance=provenance)
    (target / GATES).write_text(json.dumps(method.keep_probabilities()), encoding="utf-8")
    if state:
        shutil.rmtree(state, ignore_errors=True)
    return figures


class _Course:
    """Where pruning stands, and the loop that takes it to the end.

    Args:
        method: takes the steps.
        settings: of the pruning.
        batches: in an epoch.
    """

    def __init__(self, method: Method, settings: PruningConfig, batches: int) -> None:
        self._method, self._settings, self._batches = method, settings, batches
        self._epoch = self._batch = 0
        self._sums: dict[str, float] = {}
        self._augmentations = [
            choose(AUGMENTATIONS, choice, given=("generator",)) for choice in settings.augmentations
        ]

    def go_on(self, training: Split, kept: TrainingState | None, run: Run) -> None:
        """Prune from wherever it stands to the end."""
        settings, method = self._settings, self._method
        saved = time.monotonic()
        with run.progress(settings.epochs * self._batches, "batches") as progress:
            progress.advance(self._epoch * self._batches + self._batch)
            while self._epoch < settings.epochs:
                method.model.train()
                shuffle = shuffled(
                    training, settings.batch_size, seed=settings.seed, epoch=self._epoch
                )
                for images, labels in islice(shuffle, self._batch, None):
                    self._step(images.to(best_device()), labels.to(best_device()))
                    progress.advance(note=method.note())
                    if kept and time.monotonic() - saved >= settings.state_seconds:
                        kept.save(self._state())
                        saved = time.monotonic()
                self._finish_epoch(len(training), run)
                if kept:
                    kept.save(self._state())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was kept."""
        self._epoch, self._batch, self._sums = state["epoch"], state["batch"], state["sums"]
        self._method.restore(state["method"])
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"])

    def _state(self) -> dict[str, Any]:
        random = {"cpu": torch.get_rng_state()}
        if best_device().type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state()
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "sums": self._sums,
            "method": self._method.state(),
            "random": random,
        }

    def _step(self, images: Images, labels: Labels) -> None:
        number = self._epoch * self._batches + self._batch
        images, targets = self._augment(images, labels, number)
        losses = self._method.step(images, targets, number)
        for name, value in losses.items():
            total = self._sums.get(name, 0.0)
            self._sums[name] = total + float(value.detach()) * len(labels)
        self._batch += 1

    def _finish_epoch(self, num_images: int, run: Run) -> None:
        curves = {name: value / num_images for name, value in self._sums.items()}
        for name, value in curves.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} became {value} in epoch {self._epoch + 1}")
        self._epoch, self._batch, self._sums = self._epoch + 1, 0, {}
        run.metrics({**curves, **self._method.curves()}, step=self._epoch)

    def _augment(self, images: Images, labels: Labels, number: int) -> tuple[Images, Targets]:
        targets = functional.one_hot(labels, len(self._method.model.spec.classes)).float()
        if self._augmentations:
            seed = self._settings.seed + number
            generator = torch.Generator(images.device).manual_seed(seed)
            for augment in self._augmentations:
                images, targets = augment(images, targets, generator=generator)
        return images, targets


def _identity(settings: PruningConfig, index: Index, initial: Path) -> dict[str, Any]:
    """Say what the pruned weights depend on."""
    return {
        "settings": json.loads(settings.to_json()) | {"state_seconds": None},
        "data": index.fingerprint,
        "initial": hash_checkpoint(initial),
    }


def _figures(original: Model, compact: Model) -> dict[str, float]:
    before, after = costs(original), costs(compact)
    widths, units = gate_widths(original), gate_widths(compact)
    return {
        "sparsity": 1 - sum(units.values()) / sum(widths.values()),
        "zero_weights": zero_weights(compact),
        "flops_ratio": before["flops"] / after["flops"],
        "size_ratio": before["parameters"] / after["parameters"],
        **{f"units.{name}": float(count) for name, count in units.items()},
    }


@torch.no_grad()
def _compare(pruned: Model, compact: Model, split: Split) -> float:
    """Give the largest difference of a logit.

    Raises:
        InexactPruning: it is too large for the two to be the same decision function.
    """
    largest = 0.0
    for images, _ in in_order(split, 256):
        difference = _logits(pruned, images) - _logits(compact, images)
        largest = max(largest, float(difference.abs().max()))
    if not largest <= _LARGEST_DIFFERENCE:
        raise InexactPruning(
            f"logits of the narrower model must be within {_LARGEST_DIFFERENCE:g} of the gated "
            f"one's, got a difference of {largest:g}"
        )
    return largest


def _logits(model: Model, images: Images) -> Tensor:
    """Classify with the same draws each time, where a defence draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model(images)
