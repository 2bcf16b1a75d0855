"""Placement: turned, mirrored, cut and made smaller on a canvas."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from components.augmentations.boxes import cut_boxes, stretch_boxes
from components.augmentations.draws import integers, pick, spaced, uniform
from components.tensors import Images, PerSample

# Pei et al., 2022, https://arxiv.org/abs/2205.10617; constants are those of its published code.
_CUT_FRACTIONS = spaced(0.4, 0.9, 6)
_PADDING_SCALES = spaced(0.65, 0.95, 10)
_OFFSETS, _TONES = 10, spaced(0, 1, 10)


def rotate(images: Images, *, degrees: float = 5.0, generator: torch.Generator) -> Images:
    """Turn each image about its centre, picking the nearest pixel; corners turn black.

    Args:
        images: float in [0, 1].
        degrees: angles are drawn uniformly from minus to plus this.
        generator: on the images' device.

    Raises:
        ValueError: degrees is below 0.
    """
    if not degrees >= 0:
        raise ValueError(f"degrees must be at least 0, got {degrees}")
    angle = uniform(-degrees, degrees, len(images), generator)
    return turn(images, angle)


def turn(images: Images, angle: PerSample) -> Images:
    """Turn each image counter-clockwise by its angle in degrees."""
    height, width = images.shape[-2:]
    angle = angle.view(-1, 1, 1) * (math.pi / 180)
    cosine, sine = angle.cos(), angle.sin()
    # Pixels' centres seen from the image's, and where each comes from, in halves of the sides.
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2).view(-1, 1)
    x = torch.arange(width, device=images.device) + 0.5 - width / 2
    from_x = (x * cosine - y * sine) / (width / 2)
    from_y = (x * sine + y * cosine) / (height / 2)
    grid = torch.stack([from_x, from_y], 3)
    return functional.grid_sample(images, grid, mode="nearest", align_corners=False)


def horizontal_flip(images: Images, *, generator: torch.Generator) -> Images:  # noqa: ARG001
    """Mirror every image left to right; nothing is drawn."""
    return images.flip(3)


def vertical_flip(images: Images, *, generator: torch.Generator) -> Images:  # noqa: ARG001
    """Mirror every image top to bottom; nothing is drawn."""
    return images.flip(2)


def random_cut(images: Images, *, stretch: bool = True, generator: torch.Generator) -> Tensor:
    """Cut a part with 0.4, 0.5, ... or 0.9 of each side out at a random place.

    Args:
        images: float in [0, 1].
        stretch: resize the part to the old size, bilinearly. If not, as in the published code, one
            fraction holds for all images, since those of a batch have one size.
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    fraction = pick(_CUT_FRACTIONS, count if stretch else 1, generator).expand(count)
    sides = [(fraction * side).round().clamp(min=1) for side in (height, width)]
    top, left = (
        integers(whole - side + 1, generator)
        for whole, side in zip((height, width), sides, strict=True)
    )
    if stretch:
        return stretch_boxes(images, torch.stack([top, left, *sides], 1), (height, width))
    if count == 0:
        return images.clone()
    return cut_boxes(images, top, left, int(sides[0][0]), int(sides[1][0]))


def random_padding(images: Images, *, generator: torch.Generator) -> Images:
    """Shrink each image and paste it on a canvas of the old size: grey, or random colours.

    The factor is one of ten from 0.65 to 0.95, the place one of ten along each direction; half the
    canvases have one of ten greys, black and white among them.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    device = images.device
    tone = pick(_TONES, count, generator).view(-1, 1, 1, 1)
    canvas = tone.expand(images.shape).clone()
    noisy = torch.rand(count, generator=generator, device=device) < 0.5
    for image in noisy.nonzero().flatten().tolist():
        canvas[image].uniform_(generator=generator)
    scale = pick(range(len(_PADDING_SCALES)), count, generator).long()
    steps = [pick(spaced(0, 1, _OFFSETS), count, generator).tolist() for _ in range(2)]
    for number, factor in enumerate(_PADDING_SCALES):
        chosen = (scale == number).nonzero().flatten()
        if not len(chosen):
            continue
        size = [max(1, int(side * factor)) for side in (height, width)]
        room = [max(0, side - new - 1) for side, new in zip((height, width), size, strict=True)]
        smaller = functional.interpolate(
            images[chosen], size, mode="bicubic", antialias=True
        ).clamp_(0, 1)
        for image, small in zip(chosen.tolist(), smaller, strict=True):
            top, left = (int(room[side] * steps[side][image]) for side in (0, 1))
            canvas[image, :, top : top + size[0], left : left + size[1]] = small
    return canvas
