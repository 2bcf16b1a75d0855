"""write_reproduction_page: a reproduction as one HTML file, ours beside the published numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.page import templates
from components.study.published import COLUMNS, SOURCE
from components.study.reproduction import Figure, ModeRow, Reproduction

PAGE = "reproduction.html"

HEADERS = {
    "clean_accuracy": "clean %",
    "white_box_accuracy": "white box %",
    "black_box_accuracy": "black box %",
    "white_box_vulnerability": "vuln. white box",
    "black_box_vulnerability": "vuln. black box",
    "memory_percent": "memory %",
    "flops_ratio": "FLOPs ×",
    "sparsity_percent": "sparsity %",
}
_DECIMALS = {"white_box_vulnerability": 3, "black_box_vulnerability": 3}
_SETS = {
    "mnist": "MNIST, LeNet5-Caffe",
    "cifar10": "CIFAR-10, VGG16",
    "cifar100": "CIFAR-100, VGG16",
}
_BINS = 20  # of a histogram of keep probabilities
_BAR, _HIGH = 7.0, 60.0  # width and height of its bars, in the picture's own units
_LEFT, _TOP, _WIDTH, _HEIGHT = 50.0, 14.0, 520.0, 240.0  # of the axes of accuracy and sparsity


def write_reproduction_page(found: Reproduction, target: Path) -> None:
    """Write a page that needs no network and no script.

    Args:
        found: what was measured.
        target: the file to write, in a folder that exists.
    """
    html = (
        templates(Path(__file__).parent)
        .get_template(PAGE)
        .render(
            found=found,
            set_name=_SETS[found.table],
            headers=[HEADERS[name] for name in COLUMNS],
            rows=[_cells(row) for row in found.rows],
            source=SOURCE,
            points=list(_points(found)),
            axes={"left": _LEFT, "top": _TOP, "width": _WIDTH, "height": _HEIGHT},
            layers=list(_layers(found)),
            gated=[(row, _histograms(row)) for row in found.rows if row.gates],
            bar=_BAR,
            high=_HIGH,
        )
    )
    target.write_text(html, encoding="utf-8")


def tell(name: str, figure: Figure) -> str:
    """Write a column's mean, and its deviation where there are several seeds."""
    decimals = _DECIMALS.get(name, 2)
    spread = "" if figure.deviation is None else f" ± {figure.deviation:.{decimals}f}"
    return f"{figure.mean:.{decimals}f}{spread}"


def tell_published(name: str, row: ModeRow) -> str:
    """Write a published number, or a dash where the tables have none."""
    if row.published is None:
        return "–"
    return f"{row.published[COLUMNS.index(name)]:.{_DECIMALS.get(name, 2)}f}"


def _cells(row: ModeRow) -> dict[str, Any]:
    return {
        "row": row,
        "columns": [(tell(name, row.ours[name]), tell_published(name, row)) for name in COLUMNS],
        "zeros": tell("zero_weights_percent", row.ours["zero_weights_percent"]),
        "parameters": f"{row.ours['parameters'].mean:,.0f}",
    }


def _points(found: Reproduction) -> Iterator[dict[str, Any]]:
    """Place every mode by its sparsity and its accuracies under attack."""
    sparsity_column, accuracy_column = (
        COLUMNS.index(name) for name in ("sparsity_percent", "white_box_accuracy")
    )
    for row in found.rows:
        sparsity = row.ours["sparsity_percent"].mean
        robust = 100 * row.robust.mean.value
        attacked = row.ours["white_box_accuracy"].mean
        yield _point("honest", row.title, sparsity, robust)
        yield _point("white", row.title, sparsity, attacked)
        if row.published is not None and row.mode != "admm":  # whose sparsity is one of weights
            there = row.published[sparsity_column], row.published[accuracy_column]
            yield _point("published", row.title, *there)


def _point(kind: str, title: str, sparsity: float, accuracy: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "title": title,
        "sparsity": sparsity,
        "accuracy": accuracy,
        "x": _LEFT + _WIDTH * sparsity / 100,
        "y": _TOP + _HEIGHT * (1 - accuracy / 100),
    }


def _layers(found: Reproduction) -> Iterator[dict[str, Any]]:
    """Give each mode's vulnerability by feature, with bars that are the share of the largest."""
    largest = {
        form: max(max(row.layers[form]) for row in found.rows) or 1.0
        for form in ("absolute", "relative")
    }
    for row in found.rows:
        pairs = zip(row.layers["absolute"], row.layers["relative"], strict=True)
        yield {
            "title": row.title,
            "features": [
                {
                    "absolute": absolute,
                    "relative": relative,
                    "share": 100 * absolute / largest["absolute"],
                    "relative_share": 100 * relative / largest["relative"],
                }
                for absolute, relative in pairs
            ],
        }


def _histograms(row: ModeRow) -> list[dict[str, Any]]:
    """Count each gate's keep probabilities in equal steps from 0 to 1."""
    return [
        {
            "name": name,
            "units": len(kept),
            "left": row.units.get(name, 0),
            "bars": [
                {"x": index * _BAR, "height": _HIGH * (count / len(kept)) ** 0.5, "count": count}
                for index, count in enumerate(_counts(kept))
            ],
        }
        for name, kept in row.gates.items()
    ]


def _counts(probabilities: Sequence[float]) -> list[int]:
    counts = [0] * _BINS
    for probability in probabilities:
        counts[min(int(probability * _BINS), _BINS - 1)] += 1
    return counts
