"""Table SOURCES: where images come from, listed cheaply and read one at a time."""

import heapq
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Published = Literal["train", "test"]
"""The splits a source comes with; validation is cut from train later."""

_NUM_DIGITS_TEST = 500
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a source, not yet read.

    Attributes:
        split: the published split.
        class_name: one of the source's classes.
        origin: what an error calls the image, such as its path.
        read: gives the encoded image.
    """

    split: Published
    class_name: str
    origin: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as published.

    Attributes:
        classes: their names; the position is the label.
        grey: whether the images have one channel instead of three.
        records: lists all images, in the same order every time; the classes of a split are mixed,
            so that its first images are a fair sample of it.
    """

    classes: tuple[str, ...]
    grey: bool
    records: Callable[[], Iterator[Record]]


def digits() -> Source:
    """Take scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,297 to train, 500 to test.

    The split is ours, since none was published: per class, the test images are spread evenly over
    the order in which scikit-learn gives them, so no random generator has a say.
    """
    # Here, because importing scikit-learn takes about three seconds.
    from sklearn.datasets import load_digits

    bunch: Mapping[str, Any] = load_digits()
    labels = [int(label) for label in bunch["target"]]
    # Grey values 0..16 become 0..255, rounded half up.
    pixels = (bunch["images"].astype(np.int64) * 255 + 8) // 16

    def records() -> Iterator[Record]:
        for position, split in enumerate(_spread_test(labels, _NUM_DIGITS_TEST)):
            yield Record(
                split=split,
                class_name=str(labels[position]),
                origin=f"digit {position} of scikit-learn",
                read=partial(_encode_grey, pixels[position].astype(np.uint8)),
            )

    return Source(classes=tuple("0123456789"), grey=True, records=records)


def folder(*, root: str, grey: bool = False) -> Source:
    """Take ``ROOT/train/CLASS/*.png|jpg`` and ``ROOT/test/CLASS/*.png|jpg``.

    Args:
        root: of the data set.
        grey: give one channel instead of three.

    Raises:
        ValueError: the folder is not laid out like this.
    """
    classes = tuple(path.name for path in list_classes(Path(root) / "train"))
    for path in list_classes(Path(root) / "test"):
        if path.name not in classes:
            raise ValueError(f"{path} is a class that {Path(root) / 'train'} does not have")

    def records() -> Iterator[Record]:
        splits: tuple[Published, ...] = ("train", "test")
        for split in splits:
            files = {name: list_images(Path(root) / split / name) for name in classes}
            for name, path in spread_classes(files):
                yield Record(split=split, class_name=name, origin=str(path), read=path.read_bytes)

    return Source(classes=classes, grey=grey, records=records)


SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "folder": folder,
}


def _spread_test(labels: Sequence[int], num_test: int) -> Iterator[Published]:
    """Say for each position which split it goes to, in proportion to the classes."""
    counts, seen = Counter(labels), Counter[int]()
    wanted = _share_out(num_test, counts)
    for label in labels:
        before = seen[label] * wanted[label] // counts[label]
        seen[label] += 1
        after = seen[label] * wanted[label] // counts[label]
        yield "test" if after > before else "train"


def _share_out(total: int, counts: Mapping[int, int]) -> dict[int, int]:
    """Divide a total in proportion to counts by the method of largest remainders."""
    size = sum(counts.values())
    shares = {label: total * count // size for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (-(total * counts[label] % size), label))
    for label in by_remainder[: total - sum(shares.values())]:
        shares[label] += 1
    return shares


def spread_classes(files: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, Path]]:
    """Interleave the classes in proportion to their sizes."""

    def placed(order: int, name: str) -> Iterator[tuple[float, int, str, Path]]:
        for position, path in enumerate(files[name]):
            yield (position + 0.5) / len(files[name]), order, name, path

    for _, _, name, path in heapq.merge(*(placed(order, name) for order, name in enumerate(files))):
        yield name, path


def list_classes(path: Path) -> list[Path]:
    """List the folders of the classes by name.

    Raises:
        ValueError: there are none, or there is something else beside them.
    """
    if not path.is_dir():
        raise ValueError(f"{path} must be a folder with one folder per class, and is missing")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if not entry.is_dir():
            raise ValueError(f"{path} must hold one folder per class, and holds {entry.name}")
    if not entries:
        raise ValueError(f"{path} must hold one folder per class, and is empty")
    return entries


def list_images(path: Path) -> list[Path]:
    """List the images of a class by name; the test split may lack the class."""
    if not path.is_dir():
        return []
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.suffix.lower() not in _SUFFIXES or not entry.is_file():
            raise ValueError(f"{entry} is none of {', '.join(_SUFFIXES)}; take it out of the data")
    return entries


def _encode_grey(pixels: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()
