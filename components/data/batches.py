"""One split in memory, and batches of it: shuffled for training, in order for measuring."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.crops import central_crop
from components.data.pixels import pixels_of
from components.data.reading import SplitReader
from components.tensors import Images, Labels


@dataclass(frozen=True, eq=False)
class Split:
    """One split, decoded.

    Attributes:
        images: uint8, N x channels x height x width, in row order.
        labels: int64, N.
        ids: the rows' content hashes.
    """

    images: Tensor
    labels: Labels
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


def read_split(folder: Path, split: str) -> Split:
    """Decode a split that fits into memory; of images that are larger than others, the middle.

    Args:
        folder: of shards.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        DamagedShard: size or hash of a shard disagree with the index.
        ValueError: the folder has no usable index, or the split is unknown.
    """
    reader = SplitReader(folder, split)
    channels, height, width = reader.index.image_shape
    num_images = reader.index.splits[split].num_images
    images = np.empty((num_images, height, width, channels), np.uint8)
    labels = np.empty(num_images, np.int64)
    ids: list[str] = []
    for group in reader.groups:
        for row in reader.read(group).to_pylist():
            pixels = pixels_of(
                row["image"],
                encoding=reader.index.encoding,
                height=row["height"],
                width=row["width"],
                channels=channels,
            )
            images[len(ids)] = central_crop(pixels, height, width)
            labels[len(ids)] = row["label"]
            ids.append(row["id"])
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Split(channels_first, torch.from_numpy(labels), tuple(ids))


def shuffled(
    split: Split, batch_size: int, *, seed: int, epoch: int
) -> Iterator[tuple[Images, Labels]]:
    """Give every image once, in an order that depends on seed and epoch alone.

    The last batch holds what is left.
    """
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(split)))
    for chosen in order.split(batch_size):
        yield _pixels(split.images[chosen]), split.labels[chosen]


def in_order(split: Split, batch_size: int) -> Iterator[tuple[Images, Labels]]:
    """Give every image once, in row order; the last batch holds what is left."""
    for images, labels in zip(
        split.images.split(batch_size), split.labels.split(batch_size), strict=True
    ):
        yield _pixels(images), labels


def _pixels(images: Tensor) -> Images:
    return images.to(torch.float32).div_(255)
