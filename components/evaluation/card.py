"""The model card of a page: what a model is, how it came to be, and what it is not good for."""

from collections.abc import Iterator, Mapping
from typing import Any

from components.evaluation.report import RobustnessReport


def stages(report: RobustnessReport) -> list[Mapping[str, Any]]:
    """Give what is on record of each stage that led to the model, the first one first."""
    found, stage = [], report.model.get("provenance")
    while stage:
        found.append(stage)
        stage = stage.get("before")
    return found[::-1]


def limits(report: RobustnessReport) -> Iterator[str]:
    """Say in sentences what the report does not speak of."""
    yield (
        f"Measured was on {report.robust_accuracy.num_images:,} images like those it was trained "
        "on; on other images it may do worse."
    )
    yield (
        f"Robustness was measured against changes within {report.norm} {report.epsilon:g} alone. "
        "Larger changes, stickers, rotations and forged training data are other questions."
    )
    if not report.corruptions:
        yield "How it does in bad weather, or with poor lenses or compression, was not measured."
    if report.trust != "trusted":
        yield f"The robust accuracy is {report.trust}: do not rely on it."
    if not report.data.get("licence"):
        yield (
            "No licence is on record, neither of the images nor of the weights: ask who owns the "
            "images before the model is passed on."
        )
