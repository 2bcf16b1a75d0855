"""Fog, frost and snow."""

import math
from functools import partial

import torch

from components.augmentations.corruptions.blurs import enlarge, move
from components.augmentations.corruptions.frost_textures import grow_frost, read_frost
from components.augmentations.corruptions.plasma import plasma
from components.augmentations.corruptions.severity import at_severity, scale_of
from components.tensors import Images

_FOGS = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
_FROSTS = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
_SNOWS = (
    (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
)
_SNOW_ANGLES = (-3 * math.pi / 4, -math.pi / 4)
_NOISE_BETWEEN_PIXELS = 2 / 3  # deviation that linear interpolation leaves on average
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def fog(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Draw clouds over each image.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _FOGS, partial(add_fog, generator=generator), generator)


def add_fog(images: Images, amount: float, decay: float, *, generator: torch.Generator) -> Images:
    """Add clouds and scale back to the image's own maximum; amount 0 changes nothing.

    Args:
        images: float32 in [0, 1].
        amount: brightness of the densest cloud.
        decay: of the clouds' detail, as `plasma` describes it.
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    clouds = plasma(count, height, width, decay, generator=generator)
    if amount == 0:
        return images.clone()
    brightest = images.amax((1, 2, 3), keepdim=True)
    return ((images + amount * clouds) * (brightest / (brightest + amount))).clamp_(0, 1)


def frost(
    images: Images, *, severity: int = 0, textures: str = "", generator: torch.Generator
) -> Images:
    """Let ice grow over each image.

    Differs from Hendrycks and Dietterich, 2019: the ice is computed, not photographed.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        textures: folder with pictures of frost to cut from at random places instead, meant for
            images whose shorter side has 224 pixels and resized for others.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those, or the folder holds no
            pictures.
    """
    freeze = partial(add_frost, textures=textures, generator=generator)
    return at_severity(images, severity, _FROSTS, freeze, generator)


def add_frost(
    images: Images,
    image_weight: float,
    frost_weight: float,
    *,
    textures: str = "",
    generator: torch.Generator,
) -> Images:
    """Give the weighted sum of images and frost, clipped; weights 1 and 0 change nothing."""
    make = partial(read_frost, textures) if textures else grow_frost
    ice = make(len(images), *images.shape[-2:], generator=generator)
    if images.shape[1] == 1:
        ice = _gray(ice)
    return (image_weight * images + frost_weight * ice).clamp_(0, 1)


def snow(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Let it snow, down at an angle within 45° of the vertical, and whiten the scene.

    Sizes are meant for a shorter side of 224 pixels; for others they grow and shrink with it, the
    flakes to no less than a pixel.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _SNOWS, partial(add_snow, generator=generator), generator)


def add_snow(
    images: Images,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: int,
    blur: float,
    mix: float,
    *,
    generator: torch.Generator,
) -> Images:
    """Add a layer of falling flakes and the same turned around; no flakes and mix 1 change nothing.

    Args:
        images: float32 in [0, 1].
        mean: of the noise that becomes flakes.
        deviation: of that noise.
        zoom: size of the flakes, in pixels of the reference size.
        threshold: of the noise, below which there is no flake; infinity leaves none.
        radius: of the flakes' movement, in pixels of the reference size.
        blur: deviation of that movement.
        mix: share of the images; the rest is a brighter and greyer view of them.
        generator: on the images' device.
    """
    shape = (len(images), 1, *images.shape[-2:])
    scaled = zoom * scale_of(images)
    if scaled <= 1 < zoom:
        deviation *= _NOISE_BETWEEN_PIXELS  # as if it had been enlarged: no more flakes than there
    noise = torch.randn(shape, generator=generator, device=images.device) * deviation + mean
    flakes = enlarge(noise, max(1.0, scaled))
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    falling = move(flakes, radius, blur, angles=_SNOW_ANGLES, generator=generator)
    whitened = torch.maximum(images, _gray(images) * 1.5 + 0.5)
    scene = torch.lerp(whitened, images, mix)
    return (scene + falling + falling.rot90(2, (2, 3))).clamp_(0, 1)


def _gray(images: Images) -> Images:
    if images.shape[1] == 1:
        return images
    return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
