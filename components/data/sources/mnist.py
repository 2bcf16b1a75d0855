"""mnist, fashion_mnist: grey images of 28x28 pixels in idx files, plain or gzipped."""

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.data.sources.arrays import Part, array_source
from components.data.sources.listing import Listing, find
from components.data.sources.source import Published, Source
from components.storage import Folder, open_folder

_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FILES: dict[Published, str] = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8
_LARGEST = 1 << 16
_BLOCK = 1024  # images, or labels, in memory at once


def mnist(*, root: str) -> Source:
    """Take the MNIST digits: 60,000 to train and 10,000 to test.

    Args:
        root: holds ``train-images-idx3-ubyte`` and its three siblings, plain or as ``.gz``, or
            holds them in ``MNIST/raw`` or ``raw``.

    Raises:
        ValueError: a file is missing or is no idx file of the right kind.
    """
    return _idx_source(root, "MNIST", tuple("0123456789"))


def fashion_mnist(*, root: str) -> Source:
    """Take the Fashion-MNIST pieces of clothing: 60,000 to train and 10,000 to test.

    Args:
        root: laid out as for `mnist`, with ``FashionMNIST`` for ``MNIST``.

    Raises:
        ValueError: a file is missing or is no idx file of the right kind.
    """
    return _idx_source(root, "FashionMNIST", _FASHION)


def _idx_source(root: str, name: str, classes: tuple[str, ...]) -> Source:
    folder = find(open_folder(root), (f"{name}/raw", "raw", ""), "train-images-idx3-ubyte")

    def load() -> Iterator[Part]:
        for split, start in _FILES.items():
            labels = b"".join(
                block.tobytes() for block in _read_idx(folder, f"{start}-labels-idx1-ubyte", 1)
            )
            done = 0
            for images in _read_idx(folder, f"{start}-images-idx3-ubyte", 3):
                part = labels[done : done + len(images)]
                yield Part(split, images[..., None], part)
                done += len(images)
            if done != len(labels):
                raise ValueError(f"{done} images come with {len(labels)} labels")

    return array_source(classes, load, Listing(folder).state, grey=True)


def _read_idx(folder: Folder, name: str, dimensions: int) -> Iterator[NDArray[np.uint8]]:
    """Read an idx file of unsigned bytes: two zeros, type, dimensions, their sizes, the values.

    Gives a block of values after the other, since a file may be gzipped, so that no place in it can
    be found without reading up to there.

    Raises:
        ValueError: the file is of another kind, or shorter or longer than it says.
    """
    zipped = not folder.exists(name)
    name += ".gz" * zipped
    where = f"{folder.address}/{name}"
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(folder.open(name))
        if zipped:
            file = stack.enter_context(gzip.open(file))
        try:
            yield from _blocks(file, where, dimensions)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{where} is no complete gzip file: {error}") from error


def _blocks(file: BinaryIO, where: str, dimensions: int) -> Iterator[NDArray[np.uint8]]:
    header = file.read(4 + 4 * dimensions)
    if header[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)) or len(header) < 4 + 4 * dimensions:
        raise ValueError(
            f"{where} must be an idx file of unsigned bytes with {dimensions} dimensions, "
            f"begins with {header[:4].hex(' ') or 'nothing'}"
        )
    count, *shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    if size > _LARGEST:
        raise ValueError(f"{where} must hold images of at most {_LARGEST} pixels, says {size}")
    for start in range(0, count, _BLOCK):
        length = min(_BLOCK, count - start)
        content = file.read(length * size)
        if len(content) != length * size:
            raise ValueError(
                f"{where} must hold {count * size} values, as it says, and holds fewer"
            )
        yield np.frombuffer(content, np.uint8).reshape(length, *shape)
    if file.read(1):
        raise ValueError(f"{where} must hold {count * size} values, as it says, and holds more")
