"""array_source: data sets that come as arrays in a few files, laid out in a temporary file."""

import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.data.sources.source import Published, Record, Refused, Source

_CHUNK = 1024  # images that are copied at once


class Part(NamedTuple):
    """Images of one file.

    Attributes:
        split: that they belong to.
        images: uint8, N x height x width x channels.
        labels: N whole numbers.
    """

    split: Published
    images: NDArray[np.uint8]
    labels: Sequence[int]


class _Images:
    """Images of one split and of one size, one after the other in a temporary file."""

    def __init__(self) -> None:
        self.labels = array("q")
        self._shape: tuple[int, ...] = ()
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as this
        weakref.finalize(self, self._file.close)
        self._lock = Lock()

    def add(self, part: Part) -> None:
        if len(part.images) != len(part.labels):
            raise ValueError(f"{len(part.images)} images come with {len(part.labels)} labels")
        self._shape = part.images.shape[1:]
        for start in range(0, len(part.images), _CHUNK):
            self._file.write(part.images[start : start + _CHUNK].tobytes())
        self.labels.extend(part.labels)

    def read(self, position: int) -> bytes:
        size = int(np.prod(self._shape))
        with self._lock:
            self._file.seek(position * size)
            content = self._file.read(size)
        return as_pnm(np.frombuffer(content, np.uint8).reshape(self._shape))


def array_source(
    classes: tuple[str, ...],
    load: Callable[[], Iterable[Part]],
    state: Callable[[], str],
    *,
    grey: bool = False,
) -> Source:
    """Give a data set whose images are called by their split and their position in it.

    Args:
        classes: their names; labels are positions in it, others are refused.
        load: gives the files' contents, in order; called when the first record is wanted.
        state: a hash that changes with the files.
        grey: whether the images have one channel.
    """
    splits: dict[str, _Images] = {}

    def loaded() -> dict[str, _Images]:
        if not splits:
            filled: dict[str, _Images] = {"train": _Images(), "test": _Images()}
            for part in load():
                filled[part.split].add(part)
            splits.update(filled)
        return splits

    def records() -> Iterator[Record | Refused]:
        published: tuple[Published, ...] = ("train", "test")
        for split in published:
            for position, label in enumerate(loaded()[split].labels):
                name = f"{split}/{position:06d}"
                if 0 <= label < len(classes):
                    yield Record(split=split, class_name=classes[label], name=name)
                else:
                    last = len(classes) - 1
                    yield Refused(name=name, reason=f"has the label {label}, not one of 0..{last}")

    def read(name: str) -> bytes:
        split, _, position = name.partition("/")
        return loaded()[split].read(int(position))

    return Source(classes=classes, grey=grey, records=records, read=read, state=state, mixed=True)


def as_pnm(pixels: NDArray[np.uint8]) -> bytes:
    """Encode height x width x channels without loss, in the format that costs least."""
    height, width, channels = pixels.shape
    kind = "P5" if channels == 1 else "P6"
    return f"{kind} {width} {height} 255\n".encode() + pixels.tobytes()
