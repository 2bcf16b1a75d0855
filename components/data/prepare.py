"""Source -> splits -> resized images -> shards, once, deterministically."""

import io
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.choose import choose
from components.data.config import DataConfig
from components.data.shards import Example, write_shards
from components.data.sources import SOURCES, Published, Record, Source
from components.tracking import UNTRACKED, Run

_READABLE_MODES = ("1", "L", "P", "RGB")

# What Pillow raises on damaged files, next to its own errors, which are OSErrors.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def prepare(settings: DataConfig, target: Path, run: Run = UNTRACKED) -> dict[str, float]:
    """Prepare a data set: the same source and settings give the same shards, byte by byte.

    Args:
        settings: the source and what becomes of it.
        target: receives the shards.
        run: gets the progress.

    Returns:
        The number of ``classes`` and the images per split, such as ``train_images``.

    Raises:
        ValueError: the source is not laid out as it must be, an image is broken or of another
            shape than the others, a split would be empty, or the target holds shards already.
    """
    source: Source = choose(SOURCES, settings.source)()
    sizes = Counter((record.split, record.class_name) for record in source.records())
    cuts = _validation_cuts(source, sizes, settings.validation_share)
    labels = {name: label for label, name in enumerate(source.classes)}
    with run.progress(sizes.total(), "images") as progress:

        def examples() -> Iterator[Example]:
            for split, record in _with_validation(source, sizes, cuts, settings.seed):
                pixels = decode(record, grey=source.grey, image_size=settings.image_size)
                yield Example(split, labels[record.class_name], pixels, record.origin)
                progress.advance()

        index = write_shards(
            target, examples(), classes=source.classes, shard_images=settings.shard_images
        )
    counts = {f"{split}_images": content.num_images for split, content in index.splits.items()}
    return {"classes": float(len(index.classes)), **{k: float(n) for k, n in counts.items()}}


def _validation_cuts(
    source: Source, sizes: Counter[tuple[Published, str]], share: float
) -> dict[str, int]:
    """Say how many training images of each class validate: the share, rounded half up.

    Each class keeps at least one image to train on.
    """
    for name in source.classes:
        if not sizes["train", name]:
            raise ValueError(f"class {name!r} has no training images")
    if not any(sizes["test", name] for name in source.classes):
        raise ValueError("the test split must hold at least one image, and is empty")
    cuts = {
        name: min(int(share * sizes["train", name] + 0.5), sizes["train", name] - 1)
        for name in source.classes
    }
    if not any(cuts.values()):
        raise ValueError(f"validation_share {share} leaves no image to validate on; raise it")
    return cuts


def _with_validation(
    source: Source, sizes: Counter[tuple[Published, str]], cuts: dict[str, int], seed: int
) -> Iterator[tuple[str, Record]]:
    """Send each class's cut from train to validation, chosen at random in a single pass.

    Selection sampling: Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S. Each class
    draws from its own generator, so that a new class leaves the cuts of the others alone.
    """
    draws = {name: random.Random(f"{seed} {name}") for name in source.classes}
    left = {name: sizes["train", name] for name in source.classes}
    wanted = dict(cuts)
    for record in source.records():
        name = record.class_name
        if record.split == "test":
            yield "test", record
            continue
        chosen = draws[name].random() * left[name] < wanted[name]
        left[name] -= 1
        wanted[name] -= chosen
        yield "validation" if chosen else "train", record


def decode(record: Record, *, grey: bool, image_size: int) -> NDArray[np.uint8]:
    """Read an image as height x width x channels, at its prepared size."""
    try:
        image: Image.Image = Image.open(io.BytesIO(record.read()), formats=("PNG", "JPEG"))
        image.load()
    except _BROKEN as error:
        raise ValueError(f"{record.origin} is no readable image: {error}") from error
    if image.mode not in _READABLE_MODES or "transparency" in image.info:
        raise ValueError(
            f"{record.origin} must be 8-bit grey or colour without transparency, "
            f"has Pillow's mode {image.mode}"
        )
    image = image.convert("L" if grey else "RGB")
    if image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)
