"""Defocus, motion and zoom blur: a lens out of focus, a camera that moves sideways or forward."""

import math
from functools import partial

import torch
from torch.nn import functional

from components.augmentations.corruptions.filtering import convolve, disk, line
from components.augmentations.corruptions.severity import at_severity, draw_uniform, scale_of
from components.tensors import Images

_DISKS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
_MOVEMENTS = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
_WIDEST_ANGLE = math.pi / 4


def _zooms(count: int, step: float) -> tuple[float, ...]:
    return tuple(round(1 + step * number, 2) for number in range(count))


_ZOOMS = (
    (_zooms(12, 0.01),),
    (_zooms(16, 0.01),),
    (_zooms(11, 0.02),),
    (_zooms(13, 0.02),),
    (_zooms(11, 0.03),),
)


def defocus_blur(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Blur as a lens out of focus does, evenly over a disk.

    Radii are those of Hendrycks and Dietterich, 2019, for a shorter side of 224 pixels; for others
    they grow and shrink with it.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _DISKS, defocus, generator)


def defocus(images: Images, radius: float, deviation: float) -> Images:
    """Convolve with a disk whose rim a Gaussian softens, borders mirrored; radius 0 is sharp."""
    if radius == 0:
        return images.clone()
    return convolve(images, disk(radius, deviation, scale=scale_of(images)), border="mirror")


def motion_blur(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Blur along a line within 45° of the horizontal, drawn per image.

    Lengths are meant for a shorter side of 224 pixels; for others they grow and shrink with it.
    Differs from Hendrycks and Dietterich, 2019: a kernel of our own, no ImageMagick.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _MOVEMENTS, partial(move, generator=generator), generator)


def move(
    images: Images,
    radius: int,
    deviation: float,
    *,
    angles: tuple[float, float] = (-_WIDEST_ANGLE, _WIDEST_ANGLE),
    generator: torch.Generator,
) -> Images:
    """Average 2 radius + 1 points along a line, weighted by a Gaussian; radius 0 is sharp.

    Args:
        images: float32 in [0, 1].
        radius: of the line, in pixels of the reference size.
        deviation: of the Gaussian weights.
        angles: between which each image's direction is drawn, in radians.
        generator: on the images' device.
    """
    drawn = draw_uniform((len(images),), *angles, generator)
    if radius == 0:
        return images.clone()
    return convolve(
        images, line(radius, deviation, drawn, scale=scale_of(images)), border="nearest"
    )


def zoom_blur(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Average an image and its enlargements, as if the camera rushed at it.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _ZOOMS, rush, generator)


def rush(images: Images, zooms: tuple[float, ...]) -> Images:
    """Give the mean of the images and their enlargements by each factor; 1 alone is sharp."""
    total = images.clone()
    for zoom in zooms:
        total += enlarge(images, zoom)
    return total.div_(len(zooms) + 1).clamp_(0, 1)


def enlarge(images: Images, zoom: float) -> Images:
    """Enlarge the middle of images to their size, by linear interpolation between pixels.

    Differs from the reference: height and width are treated each by itself, so that images need
    not be square.
    """
    size = images.shape[-2:]
    inner = [math.ceil(side / zoom) for side in size]
    outer = [round(side * zoom) for side in inner]
    middle = _middle(images, inner)
    if outer == inner:
        return middle
    enlarged = functional.interpolate(middle, size=outer, mode="bilinear", align_corners=True)
    return _middle(enlarged, list(size))


def _middle(images: Images, size: list[int]) -> Images:
    top, left = ((whole - part) // 2 for whole, part in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]
