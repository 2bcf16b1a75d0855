"""RobustnessReport, save_report, load_report: what was measured, and whether to believe it."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

REPORT, SAMPLES, PAGE = "report.json", "samples.parquet", "report.html"
SCHEMA = 2

Trust = Literal["trusted", "doubtful", "masked"]
View = str
"""Whose gradients were climbed: ``as_is``, ``honest`` or ``transfer/NAME``."""


@dataclass(frozen=True)
class Accuracy:
    """A share of images with its 95 % interval by Wilson's formula.

    Attributes:
        value: in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
        num_images: how many images it was measured on.
    """

    value: float
    low: float
    high: float
    num_images: int

    @classmethod
    def of(cls, value: float, num_images: int) -> "Accuracy":
        """Make one from a share; Wilson, 1927, with z = 1.96 for 95 %.

        Raises:
            ValueError: there are no images, or the share lies outside [0, 1].
        """
        if num_images < 1 or not 0 <= value <= 1:
            raise ValueError(f"an accuracy needs images and a share in [0, 1], got {value}")
        z = 1.959963984540054
        centre = value + z * z / (2 * num_images)
        spread = z * math.sqrt(value * (1 - value) / num_images + (z / (2 * num_images)) ** 2)
        scale = 1 + z * z / num_images
        low, high = (centre - spread) / scale, (centre + spread) / scale
        return cls(value, max(0.0, low), min(1.0, high), num_images)

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One attack through one view of the model.

    Attributes:
        name: unique within the report, such as ``pgd-margin``; names its column in the samples.
        view: whether gradients came from the model as it is or from its honest view.
        settings: every parameter of the attack, norm and radius included.
        robust_accuracy: share of all images that are classified correctly after this attack and,
            where attacks follow each other on the survivors, those before it.
        seconds: wall time.
        attacked: how many images it was tried on.
        left_out: how many more it should have been tried on, had there been time.
        forwards: forward passes per attacked image.
        gradients: gradients per attacked image.
    """

    name: str
    view: View
    settings: Mapping[str, Any]
    robust_accuracy: Accuracy
    seconds: float
    attacked: int = 0
    left_out: int = 0
    forwards: float = 0.0
    gradients: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CorruptionResult:
    """One way to spoil images, which seeks no particular answer.

    Attributes:
        name: of the operation, such as ``fog``.
        severity: from 1 to 5.
        accuracy: share of all images that are classified correctly when spoiled.
    """

    name: str
    severity: int
    accuracy: Accuracy


@dataclass(frozen=True, kw_only=True)
class Check:
    """One reason to believe or doubt the number.

    Attributes:
        id: as in the field's checklists, such as ``G1``.
        title: in a few words.
        value: what was measured.
        threshold: from where on it counts.
        verdict: passed, a warning, or a failure.
        explanation: what it means, for people outside the field.
        remedy: what to do about it.
    """

    id: str
    title: str
    value: float
    threshold: float
    verdict: Literal["pass", "warn", "fail"]
    explanation: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class RobustnessReport:
    """The result of one evaluation.

    Attributes:
        title: which model this is, for people.
        model: checkpoint hash, backbone, defences.
        data: fingerprint, split, hash of the attacked images' ids, class names.
        norm: of the threat model.
        epsilon: radius in pixel units, exactly as used.
        clean_accuracy: without any attack.
        naive_robust_accuracy: worst case per image over the attacks on the model as it is.
        robust_accuracy: worst case per image over all attacks and views; the honest number.
        attacks: each attack by itself.
        metrics: figures of the papers by name, such as ``attack_robustness``.
        curve: radius and robust accuracy, rising radius; the first is 0.
        checks: what speaks for and against the number.
        trust: the verdict over all checks.
        costs: ``parameters``, ``flops`` of one image, ``size_bytes`` of the weights.
        settings: the evaluation's settings.
        versions: of the libraries that took part.
        seconds: wall time.
        corruptions: every operation at every severity; empty where none was asked for.
        latency_seconds: of one image on the machine of the evaluation; None where not measured.
    """

    title: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    norm: str
    epsilon: float
    clean_accuracy: Accuracy
    naive_robust_accuracy: Accuracy
    robust_accuracy: Accuracy
    attacks: tuple[AttackResult, ...]
    metrics: Mapping[str, float]
    curve: tuple[tuple[float, Accuracy], ...]
    checks: tuple[Check, ...]
    trust: Trust
    costs: Mapping[str, int]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: float
    corruptions: tuple[CorruptionResult, ...] = ()
    latency_seconds: float | None = None

    @property
    def mean_corruption_accuracy(self) -> Accuracy | None:
        """The mean over all operations and severities; None where none was measured.

        Its interval is that of as many images as there are, not as there are spoiled ones: the
        same image spoiled twice is no second witness.
        """
        if not self.corruptions:
            return None
        accuracies = [result.accuracy for result in self.corruptions]
        mean = math.fsum(accuracy.value for accuracy in accuracies) / len(accuracies)
        return Accuracy.of(min(mean, 1.0), accuracies[0].num_images)

    def figures(self) -> dict[str, float]:
        """Give what one compares versions by, each figure under a name of its own."""
        return {
            "clean_accuracy": self.clean_accuracy.value,
            "naive_robust_accuracy": self.naive_robust_accuracy.value,
            "robust_accuracy": self.robust_accuracy.value,
            **{
                f"robust_accuracy.{attack.name}.{attack.view}": attack.robust_accuracy.value
                for attack in self.attacks
            },
            **self._corruption_figures(),
            **self.metrics,
            **{name: float(value) for name, value in self.costs.items()},
            **({} if self.latency_seconds is None else {"latency_seconds": self.latency_seconds}),
        }

    def _corruption_figures(self) -> dict[str, float]:
        mean = self.mean_corruption_accuracy
        each = {
            f"corruption_accuracy.{result.name}.{result.severity}": result.accuracy.value
            for result in self.corruptions
        }
        return {"mean_corruption_accuracy": mean.value, **each} if mean else {}

    def __str__(self) -> str:
        return (
            f"clean {self.clean_accuracy} | robust {self.robust_accuracy} "
            f"{self.norm} {self.epsilon:g} n={self.robust_accuracy.num_images} | {self.trust}"
        )


def save_report(report: RobustnessReport, samples: pa.Table, folder: Path) -> None:
    """Write ``report.json`` and ``samples.parquet`` into a folder.

    Args:
        report: what was measured.
        samples: a row per image: ``id`` (content hash), ``label``, ``prediction`` (clean),
            ``clean`` and ``robust`` (share of draws that were right; 0 or 1 unless the model is
            randomised), ``robust/NAME/VIEW`` per attack, ``margin`` and ``norm`` of the worst
            adversarial image, ``fallen_to`` the first attack that fooled most draws (empty where
            none did), and, unless the model is randomised, ``distance`` of the nearest adversarial
            image that was found.
        folder: made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(samples, folder / SAMPLES)
    text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(report)}, indent=2, allow_nan=False)
    (folder / REPORT).write_text(text, encoding="utf-8")


def load_report(folder: Path) -> tuple[RobustnessReport, pa.Table]:
    """Read what `save_report` wrote.

    Raises:
        ValueError: the folder holds no report, or one of another schema.
    """
    try:
        values = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        samples = pq.read_table(folder / SAMPLES)
    except OSError as error:
        raise ValueError(f"{folder} holds no report: {error}") from error
    if (schema := values.pop("schema", None)) != SCHEMA:
        raise ValueError(f"{folder / REPORT} has schema {schema}, this version reads {SCHEMA}")
    for name in ("clean_accuracy", "naive_robust_accuracy", "robust_accuracy"):
        values[name] = Accuracy(**values[name])
    values["attacks"] = tuple(
        AttackResult(**{**attack, "robust_accuracy": Accuracy(**attack["robust_accuracy"])})
        for attack in values["attacks"]
    )
    values["curve"] = tuple((epsilon, Accuracy(**share)) for epsilon, share in values["curve"])
    values["corruptions"] = tuple(
        CorruptionResult(**{**result, "accuracy": Accuracy(**result["accuracy"])})
        for result in values.get("corruptions", ())
    )
    values["checks"] = tuple(Check(**check) for check in values["checks"])
    return RobustnessReport(**values), samples
