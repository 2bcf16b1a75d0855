# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "bartizan",
#     "webdataset==1.0.2",
# ]
#
# [tool.uv]
# constraint-dependencies = ["torch==2.15.0"]  # the one the project is tested with
#
# [tool.uv.sources]
# bartizan = { path = "../..", editable = true }
# ///
"""Compare how fast images reach the training loop with torchvision's loader and WebDataset.

    uv run tests/benchmarks/data.py
    uv run tests/benchmarks/data.py --workers 8 --large 4000 --rounds 7

No test: pytest does not collect it. All contenders read the same JPEGs, do the same to them (at 32
pixels: padded by 4, cropped and mirrored at random; at 224: a random resized crop, mirrored at
random) and end with batches of 64 float images in [0, 1]; all have the same number of workers:
threads here, processes there. They take turns, after an epoch to warm up that nobody is timed in;
a ratio is taken within a round, and the median over the rounds is shown with the least and the
largest. Then the memory is measured that an epoch of ten thousand and of a million rows needs.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from components.augmentations.crop_and_flip import crop_and_flip
from components.data.config import DataConfig
from components.data.crops import central_crop, random_resized_crop
from components.data.index import read_index, write_index
from components.data.prepare import prepare
from components.data.stream import Stream
from components.storage import open_folder

BATCH, CLASSES, TAR_FILES = 64, 10, 8
GOALS = {32: 2.0, 224: 1.3}  # times as fast as the faster peer
Epoch = Callable[[int], Iterable[torch.Tensor]]
_console = Console(width=110)


def main(
    small: Annotated[int, typer.Option(help="Images of 32 pixels.")] = 4000,
    large: Annotated[int, typer.Option(help="Images for 224 pixels.")] = 400,
    workers: Annotated[int, typer.Option(help="Threads or processes.", min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    million: Annotated[bool, typer.Option(help="Also measure memory.")] = True,
) -> None:
    """Compare with torchvision and WebDataset, on images made up on the spot."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for side, count in ((32, small), (224, large)):
            if count:
                folder = Path(name) / str(side)
                make_photos(folder / "photos", count, (32, 32) if side == 32 else (256, 341))
                compare(side, count, contenders(folder, side, workers), rounds)
        if million:
            memory(Path(name))


def make_photos(root: Path, count: int, shape: tuple[int, int]) -> None:
    """Write JPEGs that look smooth from afar and noisy from near, a tenth of them to test."""
    random = np.random.default_rng(0)
    for number in range(count + count // 10):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))
        noisy = (smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        split = "train" if number < count else "test"
        path = root / split / str(number % CLASSES) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)


def contenders(folder: Path, side: int, workers: int) -> dict[str, Epoch]:
    """Give one epoch of batches by number, for each of those that are compared."""
    photos = folder / "photos"
    if side == 32:
        steps = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
        ours = {"raw": "bartizan", "jpeg": "bartizan, from JPEG"}
    else:
        steps = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()]
        ours = {"jpeg": "bartizan"}
    transform = v2.Compose([*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    found: dict[str, Epoch] = {
        name: bartizan(photos, folder / encoding, side, encoding, workers)
        for encoding, name in ours.items()
    }
    pictures = datasets.ImageFolder(str(photos / "train"), transform)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        pictures,
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        generator=generator,
    )
    found["torchvision"] = lambda _: (images for images, _ in loader)
    found["webdataset"] = tar_files(photos / "train", folder / "tar", transform, workers)
    return found


def bartizan(photos: Path, target: Path, side: int, encoding: str, workers: int) -> Epoch:
    """Prepare the photos as shards, and stream them without keeping what was decoded."""
    settings = DataConfig(
        source={"name": "folder", "root": str(photos)}, validation_share=0.02, encoding=encoding
    )
    if side == 224:
        settings = replace(settings, image_size=224, resize="crop", keep_larger=True)
    prepare(settings, target)
    stream = Stream(
        target,
        "train",
        batch_size=BATCH,
        workers=workers,
        crop=partial(random_resized_crop, mirrored=0.5) if side == 224 else central_crop,
        augment=crop_and_flip if side == 32 else None,
        keep_bytes=0,
    )
    return lambda number: (batch.images for batch in stream.epoch(number))


def tar_files(photos: Path, folder: Path, transform: v2.Transform, workers: int) -> Epoch:
    """Pack the photos as WebDataset wants them, and read them in its usual way."""
    folder.mkdir(parents=True)
    files = sorted(photos.rglob("*.jpg"), key=lambda path: path.name)
    for number in range(TAR_FILES):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as tar:
            for path in files[number::TAR_FILES]:
                tar.add(path, f"{path.stem}.jpg")
                label = tarfile.TarInfo(f"{path.stem}.cls")
                label.size = len(path.parent.name)
                tar.addfile(label, io.BytesIO(path.parent.name.encode()))
    pictures = (
        webdataset.WebDataset(
            [str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=TAR_FILES
        )
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, int)
        .batched(BATCH)
    )
    loader = webdataset.WebLoader(
        pictures, batch_size=None, num_workers=workers, persistent_workers=True
    )
    return lambda _: (images for images, _ in loader)


def compare(side: int, count: int, epochs: dict[str, Epoch], rounds: int) -> None:
    """Time epochs in turns, and draw the table."""
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        names = list(epochs) if number % 2 else list(epochs)[::-1]
        for name in names:
            start = time.perf_counter()
            seen = sum(len(images) for images in epochs[name](number))
            if number:
                rates[name].append(seen / (time.perf_counter() - start))
            assert 0.95 * count <= seen <= count, f"{name} gave {seen} of {count} images"
    peers = ("torchvision", "webdataset")
    faster = max(peers, key=lambda name: median(rates[name]))
    drawn = Table(title=f"{side} x {side} pixels, {count} images", title_justify="left")
    for column in ("", "images per second", f"of {faster}"):
        drawn.add_column(column, justify="left" if not column else "right")
    for name, found in rates.items():
        ratios = [own / its for own, its in zip(found, rates[faster], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        drawn.add_row(name, f"{median(found):,.0f}", spread)
    _console.print(drawn)
    ratio = median(own / its for own, its in zip(rates["bartizan"], rates[faster], strict=True))
    met = "met" if ratio >= GOALS[side] else "missed"
    _console.print(f"at least {GOALS[side]} times the faster peer: {ratio:.2f}, {met}\n")


_MEMORY = """
import resource, sys
from pathlib import Path
from components.data.stream import Stream

def peak(folder):
    stream = Stream(Path(folder), "train", batch_size=512, keep_bytes=0, workers=2)
    assert sum(len(batch.rows) for batch in stream.epoch(0)) == stream.num_images
    return stream.num_images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

for folder in sys.argv[1:]:
    print("%d rows: peak %.0f MiB" % peak(folder))
"""


def memory(root: Path) -> None:
    """Run an epoch of 10,000 and then one of 1,000,000 rows of 16 x 16 pixels in a new process."""
    make_photos(root / "tiny", 4445, (16, 16))
    source = {"name": "folder", "root": str(root / "tiny")}
    prepare(DataConfig(source=source, validation_share=0.1), root / "tiny shards")
    index = read_index(root / "tiny shards")
    (shard,) = [shard for shard in index.shards if shard.split == "train"]
    folders = []
    for copies in (10_000 // shard.rows + 1, 1_000_000 // shard.rows + 1):
        folder = root / f"{copies} copies"
        folder.mkdir()
        shards = tuple(replace(shard, file=f"train-{n:05d}.parquet") for n in range(copies))
        for copy in shards:
            os.link(root / "tiny shards" / shard.file, folder / copy.file)
        content = index.splits["train"]
        content = replace(content, counts=tuple(count * copies for count in content.counts))
        write_index(open_folder(folder), replace(index, shards=shards, splits={"train": content}))
        folders.append(folder)
    subprocess.run([sys.executable, "-c", _MEMORY, *folders], check=True)


if __name__ == "__main__":
    typer.run(main)
