"""write_comparison: versions side by side as one HTML file for people, warnings before numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.data.batches import read_split
from components.evaluation.page import NORMS, class_name, embed_png, explain_trust, templates
from components.evaluation.report import Accuracy
from components.registry.comparison import (
    Entry,
    Pair,
    compare_all,
    differing_settings,
    images_apart,
    lineage,
    worst_per_attack,
)

PAGE = "comparison.html"

_LEFT, _TOP, _WIDTH, _HEIGHT = 46.0, 16.0, 354.0, 200.0  # of a chart's axes, in its own units
_STYLES = "abcd"  # colour and dashes of a version's line, in turn
_CORNERS = ((8, -8), (8, 18), (-16, -8), (-16, 18))  # where a point's number stands, in turn
_SHOWN_IMAGES = 12

_Pixels = npt.NDArray[np.float64]


def write_comparison(entries: Sequence[Entry], folder: Path, data: Path | None = None) -> Path:
    """Write a page that needs no network, no script and no knowledge of the field.

    Args:
        entries: versions of one model, the first one to compare the others with.
        folder: receives ``comparison.html``; made where it is missing.
        data: shards that hold the images; None shows none of them.

    Returns:
        The page.

    Raises:
        ValueError: the folder holds no shards.
    """
    pairs = compare_all(entries)
    alike = [entries[0]] + [
        entry for entry, pair in zip(entries[1:], pairs, strict=True) if not pair.missing
    ]
    html = (
        templates(Path(__file__).parent)
        .get_template("comparison.html")
        .render(
            name=entries[0].version.name,
            entries=[_describe(entry, i) for i, entry in enumerate(entries)],
            pairs=pairs,
            told=[explain_pair(pair) for pair in pairs],
            norm=NORMS.get(entries[0].report.norm, entries[0].report.norm),
            attacks=list(dict.fromkeys(a for e in entries for a in worst_per_attack(e.report))),
            curves=_draw_curves(entries),
            scatter=_draw_scatter(entries),
            classes=_by_class(alike),
            alike=[entry.version.number for entry in alike],
            apart=list(_images_apart(alike, _read_pixels(data) if data else {})),
            differing=differing_settings(entries),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAGE).write_text(html, encoding="utf-8")
    return folder / PAGE


def explain_pair(pair: Pair, significance: float = 0.05) -> str:
    """Say in one sentence of plain words whether a version is better than the first one."""
    if pair.missing or pair.p_value is None or pair.gain is None:
        return str(pair)
    if not pair.better and not pair.worse:
        return f"Under attack version {pair.version} gets the same images right as {pair.against}."
    counts = f"of the same images it gets {pair.better} right under attack that {pair.against} "
    counts += f"does not, and {pair.worse} the other way round"
    if pair.p_value >= significance:
        return (
            f"Nobody can tell whether version {pair.version} withstands more than {pair.against}: "
            f"{counts}, which chance alone does with probability {pair.p_value:.2g}."
        )
    word = "more" if (pair.better or 0) > (pair.worse or 0) else "less"
    return (
        f"Version {pair.version} withstands {word} than {pair.against}: {counts}, which chance "
        f"alone does with probability {pair.p_value:.2g}."
    )


def _describe(entry: Entry, place: int) -> dict[str, Any]:
    report = entry.report
    return {
        "number": entry.version.number,
        "label": entry.label,
        "style": _STYLES[place % len(_STYLES)],
        "report": report,
        "explanation": explain_trust(report),
        "worst": worst_per_attack(report),
        "lineage": lineage(entry),
    }


def _draw_curves(entries: Sequence[Entry]) -> dict[str, Any]:
    """Place accuracy against epsilon of every version in the norm of the first one."""
    first = entries[0].report
    shown = [(i, e) for i, e in enumerate(entries) if e.report.norm == first.norm]
    reach = max((e.report.curve[-1][0] for _, e in shown if e.report.curve), default=0) or 1.0
    across, down = _scale(0, reach, _LEFT, _WIDTH), _scale(1, 0, _TOP, _HEIGHT)
    lines = [
        {
            "label": entry.label,
            "style": _STYLES[i % len(_STYLES)],
            "points": [
                {"x": across(epsilon), "y": down(accuracy.value), "accuracy": accuracy}
                | {"epsilon": _budget(epsilon, first.norm)}
                for epsilon, accuracy in entry.report.curve
            ],
        }
        for i, entry in shown
    ]
    return _axes() | {
        "lines": lines,
        "rows": [(down(share), share) for share in (0, 0.25, 0.5, 0.75, 1)],
        "columns": [
            (across(reach * k / 4), _budget(reach * k / 4, first.norm).removesuffix("/255"))
            for k in range(5)
        ],
        "unit": " in steps of 1/255" if first.norm == "linf" else "",
        "epsilon": across(min(first.epsilon, reach)),
    }


def _draw_scatter(entries: Sequence[Entry]) -> dict[str, Any]:
    """Place clean against robust accuracy with their intervals, zoomed to where they are."""
    clean = [entry.report.clean_accuracy for entry in entries]
    robust = [entry.report.robust_accuracy for entry in entries]
    left, right = _range(clean)
    low, high = _range(robust)
    across, down = _scale(left, right, _LEFT, _WIDTH), _scale(high, low, _TOP, _HEIGHT)
    points = [
        {
            "label": entry.version.number,
            "style": _STYLES[i % len(_STYLES)],
            "x": across(x.value),
            "y": down(y.value),
            "beside": _CORNERS[i % len(_CORNERS)],
            "across": (across(x.low), across(x.high)),
            "down": (down(y.low), down(y.high)),
            "clean": x,
            "robust": y,
        }
        for i, (entry, x, y) in enumerate(zip(entries, clean, robust, strict=True))
    ]
    steps = [k / 4 for k in range(5)]
    return _axes() | {
        "points": points,
        "rows": [(down(low + (high - low) * k), low + (high - low) * k) for k in steps],
        "columns": [(across(left + (right - left) * k), left + (right - left) * k) for k in steps],
    }


def _axes() -> dict[str, float]:
    return {"left": _LEFT, "right": _LEFT + _WIDTH, "top": _TOP, "bottom": _TOP + _HEIGHT}


def _range(accuracies: Sequence[Accuracy]) -> tuple[float, float]:
    """Give whole tenths that hold every interval."""
    low = np.floor(min(accuracy.low for accuracy in accuracies) * 10) / 10
    high = np.ceil(max(accuracy.high for accuracy in accuracies) * 10) / 10
    return float(low), float(max(high, low + 0.1))


def _scale(begin: float, end: float, start: float, length: float) -> Callable[[float], float]:
    return lambda value: round(start + length * (value - begin) / (end - begin), 2)


def _budget(epsilon: float, norm: str) -> str:
    return f"{epsilon * 255:.3g}/255" if norm == "linf" else f"{epsilon:.3g}"


def _by_class(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Give the robust accuracy of every class, the largest changes first."""
    if len(entries) < 2:
        return []
    names = [str(name) for name in entries[0].report.data.get("classes", ())]
    shares = [_class_shares(entry) for entry in entries]
    rows = [
        {
            "name": class_name(label, names),
            "count": count,
            "shares": [found[label][0] for found in shares],
            "changes": [found[label][0] - share for found in shares],
        }
        for label, (share, count) in shares[0].items()
    ]
    return sorted(rows, key=lambda row: (-max(map(abs, row["changes"])), row["name"]))


def _class_shares(entry: Entry) -> dict[int, tuple[float, int]]:
    samples = entry.evaluation[1]
    labels, robust = (samples[name].to_numpy() for name in ("label", "robust"))
    return {
        int(label): (float(robust[labels == label].mean()), int((labels == label).sum()))
        for label in np.unique(labels)
    }


def _images_apart(
    entries: Sequence[Entry], pixels: Mapping[str, _Pixels]
) -> Iterator[dict[str, Any]]:
    """Give for each version the images that it or the first one withstands and the other not."""
    names = [str(name) for name in entries[0].report.data.get("classes", ())]
    for entry in entries[1:]:
        for by_first in (False, True):
            found = [
                {
                    "id": id,
                    "label": class_name(label, names),
                    "picture": embed_png(pixels[id]) if id in pixels else "",
                }
                for id, label, first_withstands in images_apart(entry, entries[0])
                if first_withstands is by_first
            ]
            yield {
                "stands": entries[0].version.number if by_first else entry.version.number,
                "falls": entry.version.number if by_first else entries[0].version.number,
                "count": len(found),
                "shown": found[:_SHOWN_IMAGES],
            }


def _read_pixels(data: Path) -> dict[str, _Pixels]:
    """Read the test images that a picture can be made of, by their ids."""
    split = read_split(data, "test")
    if split.images.shape[1] not in (1, 3):
        return {}
    return {id: image.numpy() / 255 for id, image in zip(split.ids, split.images, strict=True)}
