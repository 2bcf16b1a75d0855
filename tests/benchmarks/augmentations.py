# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "bartizan",
#     "kornia==0.9.0",
# ]
#
# [tool.uv]
# constraint-dependencies = ["torch==2.15.0"]  # the one the project is tested with
#
# [tool.uv.sources]
# bartizan = { path = "../..", editable = true }
# ///
"""Compare the cost of Bartizan's augmentations with torchvision's and kornia's.

    uv run tests/benchmarks/augmentations.py
    uv run tests/benchmarks/augmentations.py --only rain,rotate --sizes 224 --json /tmp/a.json

No test: pytest does not collect it. Every operation changes all images of a batch, each with draws
of its own; so do the peers, torchvision's therefore image by image where it draws once per call.
All run in one process and one thread, in turns; a ratio is taken within a round, and the median
over the rounds is shown with the least and the largest. The floor is a copy of the batch. A peer's
operation is the nearest in kind, not always the same thing: "what" says what it does.
"""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import kornia.augmentation as kornia
import torch
import typer
from rich.console import Console
from rich.table import Table
from timing import Timed, interleave
from torch import Tensor
from torchvision.transforms import v2

from components.augmentations import AUGMENTATIONS
from components.augmentations.operations import OPERATIONS

Change: TypeAlias = Callable[[Tensor], Tensor]

FLOOR, OURS = "copy", "bartizan"
CLASSES = 10
_console = Console(width=120)


def main(
    only: Annotated[str, typer.Option(help="Operations by name, with commas.")] = "",
    sizes: Annotated[str, typer.Option(help="Sides of the images, with commas.")] = "32,224",
    batch: Annotated[int, typer.Option(help="Images at once.", min=1)] = 64,
    repeats: Annotated[int, typer.Option(help="Rounds.", min=1)] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all here.")] = None,
) -> None:
    """Time every augmentation beside its peers."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers'
    ours = own(batch)
    names = only.split(",") if only else list(ours)
    if not set(names) <= ours.keys():
        raise typer.BadParameter(f"expected some of {','.join(ours)}")
    record: dict[str, dict[str, dict[str, list[float]]]] = {}
    for size in map(int, sizes.split(",")):
        images = pictures(batch, size)
        drawn = Table(title=f"{batch} images of {size} x {size}", title_justify="left")
        for column in (
            "",
            "ms an image",
            "of a copy",
            "fastest peer",
            "ms an image",
            "of the peer",
        ):
            drawn.add_column(column, justify="left" if column in ("", "fastest peer") else "right")
        for name in names:
            contenders = {FLOOR: torch.clone, OURS: ours[name], **peers(name, size)}
            timed = compare(contenders, images, repeats)
            drawn.add_row(*cells(name, timed, batch))
            record.setdefault(str(size), {})[name] = {n: t.seconds for n, t in timed.items()}
        _console.print(drawn)
    if json_file is not None:
        facts = {"torch": torch.__version__, "batch": batch, "seconds": record}
        json_file.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def pictures(count: int, size: int) -> Tensor:
    """Make images that are smooth and noisy as pictures are."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 9, generator=draws)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=draws)).clamp(0, 1)


def compare(contenders: dict[str, Change], images: Tensor, rounds: int) -> dict[str, Timed]:
    """Time everybody, after one call that does not count."""
    calls = {name: partial(change, images) for name, change in contenders.items()}
    for call in calls.values():
        call()
    # Small images take too little time for the clock.
    times = 1 if images[0].numel() > 50_000 else 5
    repeated = {name: partial(_repeat, call, times) for name, call in calls.items()}
    timed = interleave(repeated, rounds, lambda _: None)
    for time in timed.values():
        time.seconds = [seconds / times for seconds in time.seconds]
    return timed


def _repeat(call: Callable[[], Tensor], times: int) -> Tensor:
    return [call() for _ in range(times)][-1]


def cells(name: str, timed: dict[str, Timed], batch: int) -> list[str]:
    """Lay out one row."""
    own_time = timed[OURS]
    row = [name, _milliseconds(own_time, batch), f"{own_time.over(timed[FLOOR])[0]:.1f}"]
    rivals = [peer for peer in timed if peer not in (FLOOR, OURS)]
    if not rivals:
        return row
    fastest = min(rivals, key=lambda peer: timed[peer].median)
    median, least, most = own_time.over(timed[fastest])
    ratio = f"{median:.2f} ({least:.2f} to {most:.2f})"
    return [*row, fastest, _milliseconds(timed[fastest], batch), ratio]


def _milliseconds(timed: Timed, batch: int) -> str:
    return f"{1000 * timed.median / batch:.4f}"


def own(batch: int) -> dict[str, Change]:
    """Give ours by name: each operation alone, the augmentations of whole batches, the chain."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.eye(CLASSES)[torch.arange(batch) % CLASSES]
    changes: dict[str, Change] = {
        name: partial(operation, generator=generator) for name, operation in OPERATIONS.items()
    }
    for name in sorted(AUGMENTATIONS.keys() - OPERATIONS.keys()):
        augment = partial(AUGMENTATIONS[name], targets=targets, generator=generator)
        changes[name] = lambda images, augment=augment: augment(images)[0]
    return changes


def peers(name: str, size: int) -> dict[str, Change]:
    """Give what other libraries have of this kind, called as their manuals say."""
    scale, sure = size / 224, {"p": 1.0}
    odd = 2 * max(1, round(4 * scale)) + 1
    mixed = partial(torch.randint, CLASSES)
    found: dict[str, dict[str, Change]] = {
        "pepper_salt_noise": {"kornia": kornia.RandomSaltAndPepperNoise(amount=0.01, **sure)},
        "gaussian_noise": {
            "kornia": kornia.RandomGaussianNoise(std=0.07, **sure),
            "torchvision": v2.GaussianNoise(sigma=0.07),
        },
        "mosaic": {
            "kornia erasing": kornia.RandomErasing((0.004, 0.013), (1.0, 1.0), **sure),
            "torchvision erasing": each(v2.RandomErasing(1.0, (0.004, 0.013), (0.9, 1.1))),
        },
        "rgb_shuffle": {
            "kornia": kornia.RandomChannelShuffle(**sure),
            "torchvision": each(v2.RandomChannelPermutation()),
        },
        "rotate": {
            "kornia": kornia.RandomRotation(5.0, resample="nearest", **sure),
            "torchvision": each(v2.RandomRotation(5.0)),
        },
        "horizontal_flip": {
            "kornia": kornia.RandomHorizontalFlip(**sure),
            "torchvision": v2.RandomHorizontalFlip(1.0),
        },
        "vertical_flip": {
            "kornia": kornia.RandomVerticalFlip(**sure),
            "torchvision": v2.RandomVerticalFlip(1.0),
        },
        "random_cut": {
            "kornia": kornia.RandomResizedCrop((size, size), (0.16, 0.81), (1.0, 1.0), **sure),
            "torchvision": each(v2.RandomResizedCrop(size, (0.16, 0.81), (1.0, 1.0))),
        },
        "gaussian_blur": {
            "kornia": kornia.RandomGaussianBlur(odd, (max(0.4, scale), 2 * scale + 0.4), **sure),
            "torchvision": v2.GaussianBlur(odd, (max(0.4, scale), 2 * scale + 0.4)),
        },
        "blur": {"kornia box": kornia.RandomBoxBlur((5, 5), **sure)},
        "rain": {"kornia": kornia.RandomRain((20, 40), (4, 9), (-5, 5), **sure)},
        "local_shuffle": {"kornia jigsaw": kornia.RandomJigsaw((2, 2), **sure)},
        "motion_blur": {"kornia": kornia.RandomMotionBlur(odd, 45.0, 0.0, **sure)},
        "snow": {"kornia": kornia.RandomSnow((0.2, 0.5), (1.5, 2.5), **sure)},
        "contrast": {"kornia": kornia.RandomContrast((0.2, 0.9), **sure)},
        "brightness": {"kornia": kornia.RandomBrightness((1.1, 1.5), **sure)},
        "saturate": {"kornia": kornia.RandomSaturation((0.2, 2.0), **sure)},
        "compress": {"torchvision": jpeg, "kornia": kornia.RandomJPEG((7.0, 25.0), **sure)},
        "elastic": {
            "kornia": kornia.RandomElasticTransform((odd, odd), (4.0, 4.0), **sure),
            "torchvision": each(v2.ElasticTransform(sigma=3.0)),
        },
        "random_resized_crop": {
            "kornia": kornia.RandomResizedCrop((size, size), **sure),
            "torchvision": each(v2.RandomResizedCrop(size)),
        },
        "crop_and_flip": {"torchvision": each(v2.RandomCrop(size, padding=4))},
        "mixup": {"torchvision": mixing(v2.MixUp(num_classes=CLASSES), mixed)},
        "cutmix": {"torchvision": mixing(v2.CutMix(num_classes=CLASSES), mixed)},
    }
    return found.get(name, {})


def each(change: Change) -> Change:
    """Call for every image alone, as a data set's transform is, so that each has its own draw."""
    return lambda images: torch.stack([change(image) for image in images])


def mixing(change: Callable[..., tuple[Tensor, Tensor]], labels: Callable[..., Tensor]) -> Change:
    """Call with labels; one weight for the whole batch."""
    return lambda images: change(images, labels((len(images),)))[0]


def jpeg(images: Tensor) -> Tensor:
    """Compress and read back as 8 bits, with one quality for all images."""
    as_bytes = images.mul(255).round().byte()
    return torch.stack([v2.functional.jpeg(image, 15) for image in as_bytes]).float() / 255


if __name__ == "__main__":
    typer.run(main)
