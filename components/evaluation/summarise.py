"""From what was measured to the report, a row per image, and images to show."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import PIL
import pyarrow as pa
import torch
from torch import Tensor, nn

from components.attacks.geometry import distance
from components.evaluation.diagnostics import judge_trust
from components.evaluation.measure import Measurement
from components.evaluation.metrics import paper_metrics
from components.evaluation.page import Examples
from components.evaluation.report import (
    Accuracy,
    AttackResult,
    CorruptionResult,
    RobustnessReport,
)
from components.evaluation.state import hash_model, hash_tensors
from components.models.costs import count_flops, count_parameters, measure_latency
from components.tensors import Images, Labels, PerSample

_SHOWN_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A model and what a report says about it.

    Attributes:
        model: from pixels to logits.
        title: for people.
        facts: in JSON's types.
        size_bytes: of its weights as stored; None counts them as they are in memory.
    """

    model: nn.Module
    title: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images to attack and what a report says about them.

    Attributes:
        images: float32 in [0, 1].
        labels: the true classes.
        facts: ``fingerprint``, ``split``, ``classes``, in JSON's types.
        ids: an identifier of each image; None hashes the pixels.
    """

    images: Images
    labels: Labels
    facts: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[str] | None = None


def make_report(
    measured: Measurement,
    candidate: Candidate,
    dataset: Dataset,
    seconds: float,
    *,
    corruptions: tuple[CorruptionResult, ...] = (),
) -> RobustnessReport:
    """Put together what `save_report` writes."""
    subject, settings = measured.subject, measured.subject.settings
    return RobustnessReport(
        title=candidate.title,
        model={"checkpoint": hash_model(candidate.model), **candidate.facts},
        data={"fingerprint": hash_tensors(dataset.images, dataset.labels), **dataset.facts},
        norm=settings.norm,
        epsilon=settings.epsilon,
        clean_accuracy=_accuracy(subject.clean_shares),
        naive_robust_accuracy=_accuracy(measured.naive),
        robust_accuracy=_accuracy(measured.robust),
        attacks=tuple(_attack_results(measured)),
        metrics=paper_metrics(measured),
        curve=tuple((epsilon, _accuracy(shares)) for epsilon, shares in measured.curve),
        checks=measured.checks,
        trust=judge_trust(measured.checks),
        costs=_costs(candidate, tuple(dataset.images.shape[1:])),
        settings=json.loads(settings.to_json()),
        versions={**versions(), "device": str(dataset.images.device), "search": subject.precision},
        seconds=seconds,
        corruptions=corruptions,
        latency_seconds=measure_latency(candidate.model, dataset.images[:1]),
    )


def _attack_results(measured: Measurement) -> Iterator[AttackResult]:
    """Give each attack's result; in a sequence, what has fallen before stays fallen."""
    subject = measured.subject
    left = dict.fromkeys(subject.views, subject.clean_shares)
    for outcome in measured.outcomes:
        shares = outcome.shares
        if subject.in_sequence:
            shares = left[outcome.view] = torch.minimum(left[outcome.view], shares)
        attacked = int(outcome.attacked.sum())
        yield AttackResult(
            name=outcome.name,
            view=outcome.view,
            settings=outcome.settings,
            robust_accuracy=_accuracy(shares),
            seconds=outcome.seconds,
            attacked=attacked,
            left_out=outcome.left_out,
            forwards=outcome.forwards / max(attacked, 1),
            gradients=outcome.gradients / max(attacked, 1),
        )


def _costs(candidate: Candidate, image_shape: tuple[int, ...]) -> dict[str, int]:
    weights = candidate.model.state_dict().values()
    size_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    return {
        "parameters": count_parameters(candidate.model),
        "flops": count_flops(candidate.model, image_shape),
        "size_bytes": size_bytes if candidate.size_bytes is None else candidate.size_bytes,
    }


def _accuracy(shares: PerSample) -> Accuracy:
    return Accuracy.of(float(shares.double().mean()), len(shares))


def make_samples(measured: Measurement, dataset: Dataset) -> pa.Table:
    """Give a row per image, as `save_report` describes it."""
    subject, strongest = measured.subject, measured.strongest
    columns: dict[str, Tensor] = {
        "label": subject.labels,
        "prediction": subject.clean_predictions,
        "clean": subject.clean_shares,
        "robust": measured.robust,
        **{f"robust/{o.name}/{o.view}": o.shares for o in measured.outcomes},
        "margin": strongest.margins,
        "norm": distance(strongest.images - subject.images, subject.settings.norm),
    }
    if measured.distances is not None:
        columns["distance"] = measured.distances
    ids = dataset.ids
    if ids is None:
        ids = [hash_tensors(image) for image in dataset.images]
    values = {name: value.cpu().numpy() for name, value in columns.items()}
    return pa.table({"id": list(ids), **values, "fallen_to": _fallen_to(measured)})


def _fallen_to(measured: Measurement) -> list[str]:
    """Name per image the first attack that fooled most draws; empty where none did."""
    names = [""] * len(measured.robust)
    for outcome in reversed(measured.outcomes):
        for row in outcome.fooled.nonzero().squeeze(1).tolist():
            names[row] = f"{outcome.name}/{outcome.view}"
    return names


def choose_examples(measured: Measurement) -> Examples:
    """Choose the images that were classified most surely and fell all the same."""
    subject, strongest = measured.subject, measured.strongest
    fallen = (subject.clean_shares > 0.5) & (measured.robust <= 0.5)
    sureness = torch.where(fallen, -subject.clean_margins, -torch.inf)
    rows = sureness.argsort(descending=True)[: min(_SHOWN_EXAMPLES, int(fallen.sum()))]
    if subject.images.shape[1] not in (1, 3):
        rows = rows[:0]  # no picture can be made of them
    after = subject.clean_predictions[rows]
    if len(rows):
        _, _, after = subject.judge(strongest.images[rows], subject.labels[rows])
    chosen = (
        subject.images[rows],
        strongest.images[rows],
        subject.labels[rows],
        subject.clean_predictions[rows],
        after,
    )
    names = ("images", "adversarial", "labels", "predictions", "adversarial_predictions")
    return Examples(**{name: t.cpu().numpy() for name, t in zip(names, chosen, strict=True)})


def versions() -> dict[str, str]:
    """Name the libraries on which a figure may depend."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }
