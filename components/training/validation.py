"""Validation: what chooses the best epoch, and how the model looks to an attacker meanwhile."""

import math
from contextlib import closing
from dataclasses import asdict
from itertools import islice

import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.gradients import input_gradient, untouched
from components.attacks.losses import cross_entropy, of_logits
from components.choose import choose
from components.data.stream import Batch, Stream
from components.defences.defended import honest_view
from components.randomness import mix
from components.tensors import Images, best_device
from components.training.collapse import Look, look
from components.training.config import TrainingConfig
from components.training.processes import Processes

_LOOKED_AT = 256  # images of all processes, so that one is less than half a point
_EXAMPLES = 16  # images of a process whose gradients are looked at: thousands of pixels are enough


def validate(
    model: nn.Module,
    split: Stream,
    settings: TrainingConfig,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Measure clean accuracy, and robust accuracy if an attack selects, on the validation split.

    The attack goes through the honest view, and its images are judged by the model as it is. Its
    chance depends on the seed and the image alone.
    """
    clean = robust = 0
    attack = settings.selection and choose(ATTACKS, settings.selection, given=("seed",))
    device = best_device()
    with untouched(model):
        for batch in split.in_order():
            if not len(batch.images):
                continue
            images, labels = batch.images.to(device), batch.labels.to(device)
            clean += _count_correct(model, images, labels)
            if attack:
                seeds = mix(batch.rows.to(device), settings.seed)
                attacked = attack(honest_view(model), images, labels, seed=seeds)
                robust += _count_correct(model, attacked, labels)
    right = (processes or Processes()).add_up({"clean": clean, "robust": robust}, device)
    scores = {"validation_clean_accuracy": right["clean"] / split.num_images}
    if attack:
        scores["validation_robust_accuracy"] = right["robust"] / split.num_images
    return scores


def look_at(
    model: nn.Module, split: Stream, settings: TrainingConfig, processes: Processes
) -> Look:
    """Attack the first images of the validation split by one step and by several.

    They are the same in batches of any size. All processes come to the same numbers: one that ended
    alone would leave the others waiting.
    """
    device, sums = best_device(), {"images": 0.0}
    with closing(split.in_order()) as batches:
        for batch in islice(batches, math.ceil(_LOOKED_AT / split.batch_images(0))):
            among = batch.rows < _LOOKED_AT
            if not among.any():
                continue
            parts = (batch.images, batch.labels, batch.rows)
            images, labels, rows = (part[among].to(device) for part in parts)
            seeds = mix(rows, settings.seed)
            seen = look(model, images, labels, epsilon=settings.collapse_epsilon, seed=seeds)
            for name, share in {"images": 1.0, **asdict(seen)}.items():
                sums[name] = sums.get(name, 0.0) + share * len(images)
    sums = processes.add_up(sums, device)
    count = sums.pop("images")
    return Look(**{name: total / count for name, total in sums.items()})


def zero_gradients(
    model: nn.Module, split: Stream, settings: TrainingConfig, processes: Processes
) -> float:
    """Give the share of pixels at which the cross-entropy of attacked images has no gradient.

    It rises towards 1 where a model hides its gradients from the attack that trains and chooses it.
    A few of the first images tell, attacked as `validate` does.
    """
    assert settings.selection is not None
    attack = choose(ATTACKS, settings.selection, given=("seed",))
    batch, device = _first(split), best_device()
    images, labels = (part[:_EXAMPLES].to(device) for part in (batch.images, batch.labels))
    seen = {"zeros": 0.0, "pixels": float(images.numel())}
    if len(images):
        view = honest_view(model)
        with untouched(model):
            seeds = mix(batch.rows[:_EXAMPLES].to(device), settings.seed)
            attacked = attack(view, images, labels, seed=seeds)
            _, gradient, _ = input_gradient(view, attacked, of_logits(cross_entropy, labels))
        seen["zeros"] = float((gradient == 0).sum())
    sums = processes.add_up(seen, device)
    return sums["zeros"] / sums["pixels"]


def _first(split: Stream) -> Batch:
    with closing(split.in_order()) as batches:
        return next(batches)


@torch.no_grad()
def _count_correct(model: nn.Module, images: Images, labels: Tensor) -> int:
    return int((model(images).argmax(1) == labels).sum())
