"""read_loose: images that lie in a folder per class, as they are, without preparing them."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from components.data.batches import Split
from components.data.decode import Shaping, decode_file
from components.data.shards import image_id
from components.data.sources.source import SUFFIXES


def read_loose(
    folder: Path, *, grey: bool = False, image_size: int = 0, num_images: int = 0
) -> tuple[Split, tuple[str, ...]]:
    """Decode ``FOLDER/CLASS/IMAGE``; the classes are mixed, so the first are a fair sample.

    Args:
        folder: its folders in alphabetical order are the classes 0, 1, ...
        grey: give one channel instead of three.
        image_size: side to which images are resized; 0 leaves them as they are.
        num_images: how many to read; 0 reads all.

    Returns:
        The images, with the ids that shards would give them, and the names of the classes.

    Raises:
        ValueError: the folder is not laid out like this, an image is broken, or sizes differ.
    """
    classes = tuple(path.name for path in _list_classes(folder))
    files = {name: _list_images(folder / name) for name in classes}
    chosen = list(_spread_classes(files))[: num_images or None]
    shaping = Shaping(grey=grey, image_size=image_size)
    if not chosen:
        raise ValueError(f"{folder} must hold images in its folders, and holds none")
    pixels: list[NDArray[np.uint8]] = []
    ids = []
    for _, path in chosen:
        image = decode_file(path, shaping)
        if image.shape != (pixels or [image])[0].shape:
            raise ValueError(
                f"{path} has the shape {image.shape}, others have {pixels[0].shape}; "
                "have them resized to one size"
            )
        pixels.append(image)
        ids.append(image_id(image))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([classes.index(name) for name, _ in chosen])
    return Split(images, labels, tuple(ids)), classes


def _spread_classes(files: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, Path]]:
    """Interleave the classes in proportion to their sizes."""

    def placed(order: int, name: str) -> Iterator[tuple[float, int, str, Path]]:
        for position, path in enumerate(files[name]):
            yield (position + 0.5) / len(files[name]), order, name, path

    for _, _, name, path in heapq.merge(*(placed(order, name) for order, name in enumerate(files))):
        yield name, path


def _list_classes(path: Path) -> list[Path]:
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


def _list_images(path: Path) -> list[Path]:
    """List the images of a class by name."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.suffix.lower() not in SUFFIXES or not entry.is_file():
            raise ValueError(f"{entry} is none of {', '.join(SUFFIXES)}; take it out of the data")
    return entries
