"""Crops: larger images brought to one size while they are read, in 8 bits."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from components.data.pixels import Pixels

Crop = Callable[[Pixels, int, int, np.random.Generator], Pixels]
"""An image, the height and width to give it, and where chance comes from -> the cropped image."""

_RATIOS = (math.log(3 / 4), math.log(4 / 3))  # of width to height
_TRIES = 10


def central_crop(
    pixels: Pixels, height: int, width: int, _generator: np.random.Generator | None = None
) -> Pixels:
    """Cut the middle out of an image that may be larger than wanted, but not smaller."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    if top < 0 or left < 0:
        raise ValueError(
            f"an image of {pixels.shape[0]} x {pixels.shape[1]} pixels is too small to cut "
            f"{height} x {width} out of it"
        )
    return pixels[top : top + height, left : left + width]


def random_resized_crop(
    pixels: Pixels,
    height: int,
    width: int,
    generator: np.random.Generator,
    *,
    smallest_area: float = 0.08,
    mirrored: float = 0.0,
) -> Pixels:
    """Cut a random box out of an image, resize it bilinearly without aliasing, perhaps mirror it.

    The augmentation of the same name, for one image of any shape and in 8 bits, which is many
    times faster than in floating point.

    Args:
        pixels: the image.
        height: of what comes out.
        width: of what comes out.
        generator: draws the box.
        smallest_area: of the box, as a share of the image's.
        mirrored: probability with which left and right change sides.

    Raises:
        ValueError: smallest_area or mirrored is out of range.
    """
    if not 0 < smallest_area <= 1:
        raise ValueError(f"smallest_area must be above 0 and at most 1, got {smallest_area}")
    if not 0 <= mirrored <= 1:
        raise ValueError(f"mirrored must be in [0, 1], got {mirrored}")
    top, left, box_height, box_width = _box(
        pixels.shape[0], pixels.shape[1], smallest_area, generator
    )
    box = pixels[top : top + box_height, left : left + box_width]
    if (box_height, box_width) != (height, width):
        box = _resized(box, height, width)
    return box[:, ::-1] if generator.random() < mirrored else box


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    writable = torch.from_numpy(np.require(pixels, requirements="W"))  # as torch wants it
    # As one image with its channels last, for which resizing 8-bit numbers is vectorised.
    resized = functional.interpolate(
        writable.permute(2, 0, 1).unsqueeze(0),
        (height, width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return resized[0].permute(1, 2, 0).numpy()


def _box(
    height: int, width: int, smallest_area: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a box; the largest central one if ten do not fit."""
    for _ in range(_TRIES):
        area = height * width * generator.uniform(smallest_area, 1)
        ratio = math.exp(generator.uniform(*_RATIOS))
        box_height, box_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, box_height, box_width
    ratio = min(max(width / height, math.exp(_RATIOS[0])), math.exp(_RATIOS[1]))
    box_height = min(height, round(width / ratio))
    box_width = max(1, min(width, round(box_height * ratio)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
