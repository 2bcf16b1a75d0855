"""write_page: the report as one HTML file for people, doubts before numbers."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from components.evaluation.card import limits, stages
from components.evaluation.charts import budget_words, draw_curve, draw_training
from components.evaluation.report import Accuracy, RobustnessReport

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}

_VERDICTS = ("fail", "warn", "pass")


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Images on which the attack can be seen at work, the worst cases first.

    Attributes:
        images: unsigned bytes or floats in [0, 1]; count, channels (1 or 3), height, width.
        adversarial: the same images after the strongest attack.
        labels: the true classes.
        predictions: classes of the clean images according to the model.
        adversarial_predictions: classes of the adversarial images according to the model.

    Raises:
        ValueError: the arrays do not belong together, or are no images.
    """

    images: npt.NDArray[Any]
    adversarial: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    predictions: npt.NDArray[Any]
    adversarial_predictions: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must be count, channels (1 or 3), height, width, got {self.images.shape}"
            )
        if self.adversarial.shape != self.images.shape:
            raise ValueError(
                f"adversarial must have the shape of images, got {self.adversarial.shape}"
            )
        for name in ("labels", "predictions", "adversarial_predictions"):
            if (shape := getattr(self, name).shape) != self.images.shape[:1]:
                raise ValueError(f"{name} must hold one class per image, got shape {shape}")


def write_page(
    report: RobustnessReport,
    samples: pa.Table,
    examples: Examples,
    target: Path,
) -> None:
    """Write a page that needs no network, no script and no knowledge of the field.

    Args:
        report: what was measured; class names come from ``report.data["classes"]``.
        samples: a row per image, as `save_report` describes it.
        examples: a few images to show; none is fine.
        target: the file to write, in a folder that exists.
    """
    classes = [str(name) for name in report.data.get("classes", ())]
    html = (
        templates()
        .get_template("page.html")
        .render(
            report=report,
            model={key: fact for key, fact in report.model.items() if key != "provenance"},
            norm=NORMS.get(report.norm, report.norm),
            budget=budget_words(report.epsilon),
            threat=_threat(report),
            verdict=explain_trust(report),
            misleading=report.naive_robust_accuracy.value > report.robust_accuracy.value,
            checks=sorted(report.checks, key=lambda check: _VERDICTS.index(check.verdict)),
            strongest=min((a.robust_accuracy.value for a in report.attacks), default=None),
            chart=draw_curve(report) if report.curve else None,
            distances=_distances(samples),
            in_sequence=bool(report.settings.get("survivors_only")),
            examples=_shown_examples(examples, classes),
            amplification=_amplification(examples),
            by_class=_by_class(samples, classes),
            training=draw_training(report),
            stages=stages(report),
            limits=list(limits(report)),
        )
    )
    target.write_text(html, encoding="utf-8")


def explain_trust(report: RobustnessReport) -> str:
    """Say in one sentence of plain words what the report found and whether to believe it."""
    clean, naive, robust = (
        f"{accuracy.value:.1%}"
        for accuracy in (
            report.clean_accuracy,
            report.naive_robust_accuracy,
            report.robust_accuracy,
        )
    )
    if report.trust == "trusted":
        return (
            f"Under the strongest attack this model still gets {robust} of the images right "
            f"({clean} without attack), and no check of that number failed."
        )
    if report.trust == "doubtful":
        return (
            f"This model gets at most {robust} of the images right under attack ({clean} without), "
            "and probably fewer: some checks suggest that the attacks were not as strong as they "
            "could be."
        )
    if report.naive_robust_accuracy.value > report.robust_accuracy.value:
        return (
            "Do not rely on this model under attack: it hides the way to fool it instead of "
            f"closing it, so a naive attack leaves {naive} of the images right and an honest one "
            f"{robust}."
        )
    return (
        f"Do not rely on this model under attack: the measured {robust} shows that the attacks "
        "could not see their way, not that the model withstands them."
    )


def templates(*rooms: Path) -> jinja2.Environment:
    """Give the pages' templates: those of this room, and of others that use its parts."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*rooms, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        percent=lambda share: f"{share:.1%}",
        words=_words,
        facts=_facts,
        duration=_duration,
        view=_view,
    )
    return found


def _threat(report: RobustnessReport) -> str:
    if report.norm == "linf":
        return (
            "may change every colour value of every pixel by at most "
            f"{report.epsilon * 255:g} of 255 brightness steps"
        )
    measured = "sum of the changes" if report.norm == "l1" else "root of the summed squares"
    return (
        f"may change all pixels together by a distance of at most {report.epsilon:g} "
        f"({measured}, pixels from 0 to 1)"
    )


def _view(view: str) -> str:
    if view.startswith("transfer/"):
        return f"images made on {view.removeprefix('transfer/')}"
    return view.replace("_", " ").replace("as is", "as it is")


def _words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_words(item)}" for key, item in value.items() if key != "name")
        name = str(value.get("name", ""))
        return f"{name} ({rest})" if name and rest else name or rest or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_words(item) for item in value) or "none"
    return str(value)


def _facts(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping) and "name" not in value:
            yield from _facts(value, f"{name}, ")
        else:
            yield name, _words(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def class_name(label: int, classes: Sequence[str]) -> str:
    """Give the name of a class, or a word for one that has none."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def _by_class(samples: pa.Table, classes: Sequence[str]) -> list[dict[str, Any]]:
    labels = np.asarray(samples["label"].to_pylist(), dtype=np.int64)
    counts = np.bincount(labels)
    shares = {
        column: np.bincount(labels, weights=np.asarray(samples[column].to_pylist(), dtype=float))
        for column in ("clean", "robust")
    }
    rows = [
        {"name": class_name(label, classes)}
        | {
            column: Accuracy.of(min(1.0, total[label] / counts[label]), int(counts[label]))
            for column, total in shares.items()
        }
        for label in np.flatnonzero(counts).tolist()
    ]
    return sorted(rows, key=lambda row: (row["robust"].value, row["name"]))


def _distances(samples: pa.Table) -> list[tuple[str, float]]:
    """Say how large a change fools a quarter, half and three quarters of the images it can fool."""
    if "distance" not in samples.column_names:
        return []
    found = np.asarray(samples["distance"].to_pylist(), dtype=float)
    found = found[(found > 0) & np.isfinite(found)]
    if not found.size:
        return []
    shares = {"a quarter": 0.25, "half": 0.5, "three quarters": 0.75}
    return [(name, float(np.quantile(found, share))) for name, share in shares.items()]


def _pixels(images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)


def _amplification(examples: Examples) -> int:
    """Give the whole number that makes the largest change fill the range around grey."""
    change = np.abs(_pixels(examples.adversarial) - _pixels(examples.images)).max(initial=0.0)
    return max(1, int(0.5 / change + 1e-6)) if change > 0 else 1


def _shown_examples(examples: Examples, classes: Sequence[str]) -> list[dict[str, Any]]:
    images, adversarial = _pixels(examples.images), _pixels(examples.adversarial)
    changes = 0.5 + _amplification(examples) * (adversarial - images)
    return [
        {
            "clean": embed_png(images[i]),
            "change": embed_png(changes[i]),
            "adversarial": embed_png(adversarial[i]),
            "label": class_name(int(examples.labels[i]), classes),
            "before": class_name(int(examples.predictions[i]), classes),
            "after": class_name(int(examples.adversarial_predictions[i]), classes),
            "right_before": bool(examples.predictions[i] == examples.labels[i]),
            "right_after": bool(examples.adversarial_predictions[i] == examples.labels[i]),
            "enlarged": images.shape[-1] < 128,
        }
        for i in range(len(images))
    ]


def embed_png(pixels: npt.NDArray[np.float64]) -> str:
    """Write an image, channels first, in [0, 1], as an address that holds it."""
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
