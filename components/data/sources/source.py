"""Source, Record, Refused: a data set as published, listed cheaply and read one image at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Published = Literal["train", "test"]
"""The splits a source comes with; validation is cut from train later."""

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image of a source, not yet read.

    Attributes:
        split: the published split.
        class_name: one of the source's classes.
        name: by which the source reads it, and what errors call it; no model ever sees it.
    """

    split: Published
    class_name: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Something a source holds that is no image with a class.

    Attributes:
        name: what errors call it.
        reason: completes the sentence that the name begins.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as published.

    Attributes:
        classes: their names; the position is the label.
        grey: whether the images have one channel instead of three.
        records: lists everything, in the same order every time.
        read: gives an encoded image by its record's name; threads may call it side by side.
        state: a hash of names, sizes and versions; the same state means the same images.
        mixed: whether the classes come mixed, so that the first images are a fair sample.
    """

    classes: tuple[str, ...]
    grey: bool
    records: Callable[[], Iterator[Record | Refused]]
    read: Callable[[str], bytes]
    state: Callable[[], str]
    mixed: bool = False


def cut_test(count: int, test_share: float) -> range:
    """Say which of a class's images, in order of their names, are for testing.

    They follow the first ``1 - test_share`` of the images; what rounding leaves over is trained on.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be above 0 and below 1, got {test_share}")
    share = Fraction(str(test_share))
    start = int((1 - share) * count)
    return range(start, start + int(share * count))
