"""Charts of the report page: where everything stands; the templates draw it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluation.card import stages
from components.evaluation.report import RobustnessReport

_LEFT, _TOP, _WIDTH, _HEIGHT = 46.0, 26.0, 354.0, 190.0  # of a chart's axes, in its own units
_DIGIT_WIDTH = 7.5
_CURVES = {
    "validation_clean_accuracy": ("without attack", "a"),
    "validation_robust_accuracy": ("under attack", "b"),
}


def budget_words(epsilon: float) -> str:
    """Write a radius as it is spoken of, in steps of brightness."""
    return f"{epsilon * 255:g}/255"


def draw_curve(report: RobustnessReport) -> dict[str, Any]:
    """Place accuracy against epsilon on the page; the template draws it."""
    curve = report.curve
    reach = max(curve[-1][0], report.epsilon) or 1.0

    def across(epsilon: float) -> float:
        return round(_LEFT + _WIDTH * epsilon / reach, 2)

    def down(share: float) -> float:
        return round(_TOP + _HEIGHT * (1 - share), 2)

    points = [
        {"x": across(epsilon), "y": down(accuracy.value), "accuracy": accuracy}
        | {"epsilon": budget_words(epsilon) if report.norm == "linf" else f"{epsilon:g}"}
        for epsilon, accuracy in curve
    ]
    upper = [f"{across(epsilon)},{down(accuracy.high)}" for epsilon, accuracy in curve]
    lower = [f"{across(epsilon)},{down(accuracy.low)}" for epsilon, accuracy in curve]
    return {
        "points": points,
        "line": " ".join(f"{point['x']},{point['y']}" for point in points),
        "band": " ".join(upper + lower[::-1]),
        "levels": [(share, down(share)) for share in (0, 0.25, 0.5, 0.75, 1)],
        "labels": list(_readable(points)),
        "left": _LEFT,
        "right": _LEFT + _WIDTH,
        "top": _TOP,
        "bottom": _TOP + _HEIGHT,
        "epsilon": across(report.epsilon),
        "naive": down(report.naive_robust_accuracy.value),
    }


def _readable(points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, str]]:
    """Leave out labels that would touch the one before."""
    end = float("-inf")
    for point in points:
        label = point["epsilon"].removesuffix("/255")
        half = _DIGIT_WIDTH * len(label) / 2
        if point["x"] - half >= end:
            end = point["x"] + half + _DIGIT_WIDTH
            yield point["x"], label


@dataclass(frozen=True, kw_only=True)
class TrainingChart:
    """Accuracy on the validation split epoch by epoch, stage after stage, placed on the page.

    Attributes:
        lines: caption, style and points of each curve, a piece for every stage.
        stages: where each begins, and its name.
        levels: shares with their heights.
        words: the same for those who cannot see it.
    """

    lines: tuple[tuple[str, str, tuple[str, ...]], ...]
    stages: tuple[tuple[float, str], ...]
    levels: tuple[tuple[float, float], ...]
    words: str
    left: float = _LEFT
    right: float = _LEFT + _WIDTH
    top: float = _TOP
    bottom: float = _TOP + _HEIGHT


def draw_training(report: RobustnessReport) -> TrainingChart | None:
    """Place the curves of training; None where none were kept."""
    trained = [stage for stage in stages(report) if stage.get("history")]
    total = sum(len(stage["history"]) for stage in trained)
    if not total:
        return None
    step = _WIDTH / total
    begins, epochs = [], 0
    for stage in trained:
        begins.append(epochs)
        epochs += len(stage["history"])
    lines = []
    for key, (caption, style) in _CURVES.items():
        pieces = [
            _points([row.get(key) for row in stage["history"]], begin, step)
            for stage, begin in zip(trained, begins, strict=True)
        ]
        if pieces := [piece for piece in pieces if piece]:
            lines.append((caption, style, tuple(pieces)))
    return TrainingChart(
        lines=tuple(lines),
        stages=tuple(
            (_LEFT + begin * step, str(stage["stage"]))
            for stage, begin in zip(trained, begins, strict=True)
        ),
        levels=tuple((share, _down(share)) for share in (0, 0.5, 1)),
        words=" ".join(_tell(stage) for stage in trained),
    )


def _points(shares: Sequence[float | None], begin: int, step: float) -> str:
    """Write a curve of one stage; an epoch's value stands at the middle of its width."""
    return " ".join(
        f"{_LEFT + (begin + i + 0.5) * step:.2f},{_down(share):.2f}"
        for i, share in enumerate(shares)
        if share is not None
    )


def _down(share: float) -> float:
    return _TOP + _HEIGHT * (1 - share)


def _tell(stage: Mapping[str, Any]) -> str:
    last = stage["history"][-1]
    shares = [f"{last[key]:.1%} {words}" for key, (words, _) in _CURVES.items() if key in last]
    return f"{stage['stage']}: {len(stage['history'])} epochs, at the end {', '.join(shares)}."
