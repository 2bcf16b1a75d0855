"""write_card: a data set as one HTML page for people."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from components.data.config import DataConfig
from components.data.index import Index
from components.data.ledger import Ledger
from components.data.shards import Encoded

_PURPOSES = {
    "train": "to learn from",
    "validation": "cut from the training images, to choose by",
    "test": "to measure with, never to choose by",
}
_ANYTHING = ("challenge_json", "folder", "label_file", "table")
_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
_LARGEST_PICTURE = 64  # pixels a side
_MOST_CLASSES = 100  # that show pictures
_MOST_REASONS = 50
_NAMES = 3  # that stand for all images with a reason


def write_card(path: Path, index: Index, ledger: Ledger, settings: DataConfig) -> None:
    """Write a page that needs no network and no script.

    Args:
        path: the file to write.
        index: of the shards.
        ledger: that they were written from.
        settings: that they were made with.
    """
    channels, height, width = index.image_shape
    counts = ledger.counts()
    per_class = 8 if len(index.classes) <= 12 else 4
    rows = list(_classes(index))
    totals = [sum(row["counts"]) for row in rows]
    source = dict(settings.source)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["number"] = lambda count: f"{count:,}"
    page = templates.get_template("card.html").render(
        title=_title(source),
        index=index,
        kind=_kind(index),
        total=sum(totals),
        aside=counts.quarantined,
        reasons=_reasons(ledger),
        purposes=_PURPOSES,
        rows=rows,
        smallest=min(totals),
        largest=max(totals),
        samples=list(_samples(index, ledger, per_class)),
        per_class=per_class,
        small=max(height, width) < _LARGEST_PICTURE,
        channels=list(zip(_CHANNELS[channels], index.mean, index.deviation, strict=True)),
        origin=[(name, str(value)) for name, value in source.items()]
        + [("shards", _shards(index))],
        settings=[(n, str(v)) for n, v in asdict(settings).items() if n != "source"],
    )
    path.write_text(page, encoding="utf-8")


def _title(source: dict[str, Any]) -> str:
    """Name the data set by its kind, or by its folder where the kind says little."""
    name, root = str(source["name"]), str(source.get("root", "")).rstrip("/")
    if name in _ANYTHING and root:
        return root.rpartition("/")[2]
    return name.replace("_", " ")


def _kind(index: Index) -> str:
    channels, height, width = index.image_shape
    colours = {1: "grey", 3: "colour"}[channels]
    if index.training_side:
        return (
            f"{colours}, {width} × {height} pixels, to train on with a shorter side of "
            f"{index.training_side}"
        )
    return f"{colours}, {width} × {height} pixels"


def _shards(index: Index) -> str:
    size = sum(shard.size_bytes for shard in index.shards) / 1e6
    return f"{len(index.shards):,} files, {size:,.1f} MB, images as {index.encoding}"


def _classes(index: Index) -> Iterator[dict[str, Any]]:
    """Give a row per class, with its splits' shares of the largest class in per cent."""
    counts = {split: content.counts for split, content in index.splits.items()}
    largest = max(map(sum, zip(*counts.values(), strict=True)))
    for label, name in enumerate(index.classes):
        yield {
            "name": name,
            "counts": [part[label] for part in counts.values()],
            "shares": {
                split: round(100 * part[label] / largest, 2) for split, part in counts.items()
            },
        }


def _reasons(ledger: Ledger) -> list[tuple[str, int, list[str]]]:
    """Count what was put aside by reason, the most frequent first, with the first names."""
    found: dict[str, tuple[int, list[str]]] = {}
    for image in ledger.quarantined():
        reason = _general(image.reason)
        if reason not in found and len(found) == _MOST_REASONS:
            reason = "other reasons"
        count, names = found.get(reason, (0, []))
        found[reason] = count + 1, (names if len(names) == _NAMES else [*names, image.name])
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return [(reason, count, names) for reason, (count, names) in ordered]


def _general(reason: str) -> str:
    """Leave out of a reason what holds for one image only."""
    reason = re.sub(r"^has the pixels of .*?(, which is in|, which is labelled|$)", _twin, reason)
    reason = reason if reason.startswith("has the same") else reason.split(":")[0]
    return re.sub(r"'[^']*'|\b\d[\dx]*\b", "…", reason)


def _twin(match: re.Match[str]) -> str:
    if match[1].endswith("labelled"):
        return "has the same pixels as an image labelled"
    return "has the same pixels as an image" + (" in" if match[1] else " before it")


def _samples(index: Index, ledger: Ledger, per_class: int) -> Iterator[dict[str, Any]]:
    shown: dict[int, list[str]] = {}
    for encoded in ledger.first(per_class, _MOST_CLASSES):
        picture = _picture(encoded, index)
        shown.setdefault(encoded.row.label, []).append(picture)
    for label, pictures in shown.items():
        yield {"name": index.classes[label], "pictures": pictures}


def _picture(encoded: Encoded, index: Index) -> str:
    row, channels = encoded.row, index.image_shape[0]
    if index.encoding == "raw":
        pixels = np.frombuffer(row.image, np.uint8).reshape(row.height, row.width, channels)
        image: Image.Image = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    else:
        image = Image.open(io.BytesIO(row.image))
    image.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
