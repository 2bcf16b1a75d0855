"""Clean accuracy, every attack, worst case per image, and whether to believe it."""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from components.attacks.geometry import distance
from components.data.batches import read_split
from components.data.shards import read_index
from components.defences.defended import is_defended
from components.evaluation.attack import Outcome, Subject
from components.evaluation.config import EvaluationConfig, attack_label
from components.evaluation.diagnostics import diagnose, judge_trust
from components.evaluation.page import Examples, write_page
from components.evaluation.report import (
    PAGE,
    Accuracy,
    AttackResult,
    Check,
    RobustnessReport,
    View,
    save_report,
)
from components.models.checkpoint import WEIGHTS, hash_checkpoint, load_checkpoint, read_provenance
from components.models.costs import costs
from components.tensors import Images, Labels, PerSample, best_device
from components.tracking import UNTRACKED, Run

_SHOWN_EXAMPLES = 8
_CURVE_ATTACK = {"name": "pgd", "steps": 20, "loss": "margin"}
_CURVE_SHARES = (0.5, 1.0, 2.0)  # of the radius that the report is about


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """Everything measured about one model, per image.

    Attributes:
        subject: the model and its images.
        outcomes: of every attack through every view.
        robust: share of draws right under the worst of all attacks.
        naive: the same over the attacks on the model as it is.
        curve: radius and the shares left, rising radius, from 0.
        checks: what speaks for and against the number.
    """

    subject: Subject
    outcomes: tuple[Outcome, ...]
    robust: PerSample
    naive: PerSample
    curve: tuple[tuple[float, PerSample], ...]
    checks: tuple[Check, ...]


def evaluate_robustness(
    model: nn.Module,
    images: Images,
    labels: Labels,
    settings: EvaluationConfig,
    run: Run = UNTRACKED,
) -> Measurement:
    """Attack a model as it is and through its honest view; the worse counts, image by image.

    A randomised model is judged on fresh draws, with the share of draws it gets right.

    Args:
        model: any module from pixels to logits, on the images' device; left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        settings: threat model, attacks, draws, seed.
        run: gets the progress.

    Raises:
        ValueError: images, labels or logits are not what an attack can work on.
        InvalidAttack: an attack left its threat model.
    """
    views = 2 if is_defended(model) else 1
    rounds = views * len(settings.suite) + len(_CURVE_SHARES) + 1
    with run.progress(rounds * len(images), "images attacked") as progress:
        subject = Subject(model, images, labels, settings, progress.advance)
        right = subject.clean_shares > 0
        outcomes = tuple(
            subject.attack(choice, view, epsilon=settings.epsilon, standing=right)
            for view in subject.views
            for choice in settings.suite
        )
        robust = _worst(subject, outcomes)
        curve = _measure_curve(subject, outcomes)
        at_epsilon = dict(curve)[settings.epsilon]
        checks = diagnose(subject, outcomes, right & (at_epsilon <= 0.5))
    naive = _worst(subject, [o for o in outcomes if o.view == "as_is"])
    return Measurement(
        subject=subject, outcomes=outcomes, robust=robust, naive=naive, curve=curve, checks=checks
    )


def evaluate(
    settings: EvaluationConfig,
    *,
    data: Path,
    checkpoint: Path,
    target: Path,
    run: Run = UNTRACKED,
) -> RobustnessReport:
    """Measure a checkpoint on the test split and write report, samples and page.

    Args:
        settings: threat model and attacks.
        data: folder of shards.
        checkpoint: folder of the model.
        target: receives ``report.json``, ``samples.parquet`` and ``report.html``.
        run: gets figures and progress.

    Raises:
        ValueError: the model tells other classes apart than the data has.
    """
    started = time.monotonic()
    index, split = read_index(data), read_split(data, "test")
    model = load_checkpoint(checkpoint)
    if model.spec.classes != index.classes:
        raise ValueError(
            f"the model knows the classes {list(model.spec.classes)}, "
            f"the data has {list(index.classes)}"
        )
    chosen = slice(settings.num_images or None)
    images = (split.images[chosen].float() / 255).to(best_device())
    labels, ids = split.labels[chosen].to(best_device()), split.ids[chosen]
    measured = evaluate_robustness(model.to(best_device()), images, labels, settings, run)
    report = _report(
        measured,
        title=str(read_provenance(checkpoint)["stage"]),
        model={
            "checkpoint": hash_checkpoint(checkpoint),
            "backbone": model.spec.backbone,
            "defences": model.spec.defences,
        },
        data={
            "fingerprint": index.fingerprint,
            "split": "test",
            "images": hashlib.sha256("".join(ids).encode()).hexdigest(),
            "classes": index.classes,
        },
        costs={**costs(model), "size_bytes": (checkpoint / WEIGHTS).stat().st_size},
        seconds=time.monotonic() - started,
    )
    strongest, margins = _strongest(measured)
    samples = _samples(measured, ids, strongest, margins)
    save_report(report, samples, target)
    write_page(report, samples, _examples(measured, strongest), report.curve, target / PAGE)
    return report


def _worst(subject: Subject, outcomes: Sequence[Outcome]) -> PerSample:
    return torch.stack([subject.clean_shares, *(o.shares for o in outcomes)]).amin(0)


def _measure_curve(
    subject: Subject, outcomes: Sequence[Outcome]
) -> tuple[tuple[float, PerSample], ...]:
    """Measure robustness at several radii with one attack, of known strength, and the whole suite.

    What has fallen within a ball has fallen within a larger one. At the radius of the report the
    suite has its say too; where it holds the attack of the curve, that is not run again.
    """
    settings = subject.settings
    view: View = "honest" if "honest" in subject.views else "as_is"
    largest = 1.0 if settings.norm == "linf" else subject.images[0].numel() ** 0.5
    left, points = subject.clean_shares, [(0.0, subject.clean_shares)]
    for share in _CURVE_SHARES:
        epsilon = min(share * settings.epsilon, largest)
        done = [o for o in outcomes if (o.name, o.view) == (attack_label(_CURVE_ATTACK), view)]
        if share != 1 or not done:
            standing = left > 0
            done = [subject.attack(_CURVE_ATTACK, view, epsilon=epsilon, standing=standing)]
        else:
            subject.advance(len(subject.images))
        left = torch.stack([left, *(outcome.shares for outcome in done)]).amin(0)
        if share == 1:
            left = torch.minimum(left, _worst(subject, outcomes))
        points.append((epsilon, left))
    return tuple(points)


def _report(
    measured: Measurement,
    *,
    title: str,
    model: dict[str, Any],
    data: dict[str, Any],
    costs: dict[str, int],
    seconds: float,
) -> RobustnessReport:
    settings = measured.subject.settings
    return RobustnessReport(
        title=title,
        model=model,
        data=data,
        norm=settings.norm,
        epsilon=settings.epsilon,
        clean_accuracy=_accuracy(measured.subject.clean_shares),
        naive_robust_accuracy=_accuracy(measured.naive),
        robust_accuracy=_accuracy(measured.robust),
        attacks=tuple(
            AttackResult(
                name=outcome.name,
                view=outcome.view,
                settings=outcome.settings,
                robust_accuracy=_accuracy(outcome.shares),
                seconds=outcome.seconds,
            )
            for outcome in measured.outcomes
        ),
        curve=tuple((epsilon, _accuracy(shares)) for epsilon, shares in measured.curve),
        checks=measured.checks,
        trust=judge_trust(measured.checks),
        costs=costs,
        settings=json.loads(settings.to_json()),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        seconds=seconds,
    )


def _accuracy(shares: PerSample) -> Accuracy:
    return Accuracy.of(float(shares.double().mean()), len(shares))


def _strongest(measured: Measurement) -> tuple[Images, PerSample]:
    """Pick per image the adversarial image that fooled most draws, by the largest margin."""
    outcomes = measured.outcomes
    shares = torch.stack([outcome.shares for outcome in outcomes])
    margins = torch.stack([outcome.margins for outcome in outcomes])
    best = torch.where(shares == shares.amin(0), margins, -torch.inf).argmax(0)
    every = torch.arange(shares.shape[1], device=best.device)
    adversarial = torch.stack([outcome.adversarial for outcome in outcomes])
    return adversarial[best, every], margins[best, every]


def _samples(
    measured: Measurement, ids: Sequence[str], adversarial: Images, margins: PerSample
) -> pa.Table:
    subject = measured.subject
    columns: dict[str, Tensor] = {
        "label": subject.labels,
        "prediction": subject.clean_predictions,
        "clean": subject.clean_shares,
        "robust": measured.robust,
        **{f"robust/{o.name}/{o.view}": o.shares for o in measured.outcomes},
        "margin": margins,
        "norm": distance(adversarial - subject.images, subject.settings.norm),
    }
    return pa.table({"id": ids, **{name: v.cpu().numpy() for name, v in columns.items()}})


def _examples(measured: Measurement, adversarial: Images) -> Examples:
    """Choose the images that were classified most surely and fell all the same."""
    subject = measured.subject
    fallen = (subject.clean_shares > 0.5) & (measured.robust <= 0.5)
    sureness = torch.where(fallen, -subject.clean_margins, -torch.inf)
    rows = sureness.argsort(descending=True)[: min(_SHOWN_EXAMPLES, int(fallen.sum()))]
    _, _, predictions = subject.judge(adversarial)
    chosen = (
        subject.images[rows],
        adversarial[rows],
        subject.labels[rows],
        subject.clean_predictions[rows],
        predictions[rows],
    )
    images, attacked, labels, before, after = (tensor.cpu().numpy() for tensor in chosen)
    return Examples(
        images=images,
        adversarial=attacked,
        labels=labels,
        predictions=before,
        adversarial_predictions=after,
    )
