"""Loader: a split's row groups in memory, encoded or as pixels; those of a small split stay."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.data.index import DamagedShard
from components.data.pixels import Pixels, pixels_of
from components.data.reading import SplitReader

_COLUMNS = ["image", "label", "width", "height"]


class Loaded(NamedTuple):
    """A row group in memory.

    Attributes:
        labels: int64.
        heights: of the images in pixels.
        widths: of the images in pixels.
        encoded: the images as an Arrow array of bytes; None once they are decoded for good.
        pixels: rows x height x width x channels where that needs no decoding; else None.
    """

    labels: NDArray[np.int64]
    heights: NDArray[np.int32]
    widths: NDArray[np.int32]
    encoded: Any
    pixels: Pixels | None = None


class Loader:
    """Loads row groups by number, from several threads at once.

    Attributes:
        index: of the data.
        sizes: rows of each row group.
        one_shape: whether all images have the index's height and width.
    """

    def __init__(self, folder: Path, split: str, *, cache: Path | None, keep_bytes: int) -> None:
        self._reader = SplitReader(folder, split, cache=cache)
        self.index = self._reader.index
        self.sizes = [group.rows for group in self._reader.groups]
        # Only training images may keep a shape of their own.
        self.one_shape = split != "train" or not self.index.training_side
        fits = sum(self.sizes) * math.prod(self.index.image_shape) <= keep_bytes
        self._kept: dict[int, Loaded] | None = {} if self.one_shape and fits else None

    def load(self, number: int) -> Loaded:
        """Read a row group, or give what was kept of it.

        Raises:
            DamagedShard: it is not what was written.
            StorageError: it cannot be read.
        """
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        table = self._reader.read(self._reader.groups[number], _COLUMNS)
        encoded, *figures = (table.column(name).chunk(0) for name in _COLUMNS)
        label, width, height = (figure.to_numpy() for figure in figures)
        loaded = Loaded(label, height, width, encoded)
        if self.index.encoding == "raw" and self.one_shape:
            loaded = loaded._replace(pixels=self._as_one(encoded))
        if self._kept is not None:
            pixels = [self.decode(loaded, row) for row in range(len(label))]
            loaded = loaded._replace(encoded=None, pixels=np.stack(pixels))
            self._kept[number] = loaded
        return loaded

    def decode(self, loaded: Loaded, row: int) -> Pixels:
        """Give one image's pixels."""
        if loaded.pixels is not None:
            return loaded.pixels[row]
        return pixels_of(
            loaded.encoded[row].as_buffer(),
            encoding=self.index.encoding,
            height=int(loaded.heights[row]),
            width=int(loaded.widths[row]),
            channels=self.index.image_shape[0],
        )

    def _as_one(self, encoded: Any) -> Pixels:
        """See raw images of one shape as one array, without a copy."""
        channels, height, width = self.index.image_shape
        shape = len(encoded), height, width, channels
        _, offsets, content = encoded.buffers()
        ends = np.frombuffer(offsets, np.int32)[encoded.offset :][: len(encoded) + 1]
        if not (np.diff(ends) == math.prod(shape[1:])).all():
            raise DamagedShard(f"raw images are not all of {math.prod(shape[1:])} bytes")
        return np.frombuffer(content, np.uint8)[ends[0] : ends[-1]].reshape(shape)
