"""Spatter: drops of water or mud on the lens."""

from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from components.augmentations.corruptions.filtering import noise_left, smooth
from components.augmentations.corruptions.severity import at_severity, scale_of
from components.tensors import Images

_SPATTERS = (
    (0.65, 0.3, 4.0, 0.69, 0.6, "water"),
    (0.65, 0.3, 3.0, 0.68, 0.6, "water"),
    (0.65, 0.3, 2.0, 0.68, 0.5, "water"),
    (0.65, 0.3, 1.0, 0.65, 1.5, "mud"),
    (0.67, 0.4, 1.0, 0.65, 1.5, "mud"),
)
_COLOURS = {"water": (175 / 255, 238 / 255, 238 / 255), "mud": (63 / 255, 42 / 255, 20 / 255)}
_LUMA = np.array([0.299, 0.587, 0.114])
_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
_EDGES = (50, 150)  # Canny's two thresholds, of 255
_FARTHEST = 20.0  # pixels of the reference size from a drop's edge after which nothing changes
_THINNEST_MUD = 0.8
_SMALLEST = 0.5  # deviation in pixels; below it there are single pixels instead of drops


def spatter(
    images: Images, *, severity: int = 0, negative: bool = False, generator: torch.Generator
) -> Images:
    """Spatter the lens, with water at severities 1 to 3, with mud at 4 and 5.

    Sizes are meant for a shorter side of 224 pixels; for others they grow and shrink with it, the
    drops to no less than about a pixel, and cover as much of the image.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        negative: as published with gradient concealment, where an overflow turned images with
            water on them into their colour negatives.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    throw = partial(add_spatter, negative=negative, generator=generator)
    return at_severity(images, severity, _SPATTERS, throw, generator)


def add_spatter(
    images: Images,
    mean: float,
    deviation: float,
    size: float,
    threshold: float,
    strength: float,
    kind: str,
    *,
    negative: bool = False,
    generator: torch.Generator,
) -> Images:
    """Throw drops; no drops or, with water, strength 0 change nothing.

    Args:
        images: float32 in [0, 1].
        mean: of the noise that becomes drops.
        deviation: of that noise before it is smoothed.
        size: deviation of the Gaussian that smooths it, in pixels of the reference size.
        threshold: of the noise, below which there is no drop; infinity leaves none.
        strength: how visible water is; how far the rims of mud fade, in pixels.
        kind: ``water`` or ``mud``.
        negative: whether images with water are wrapped around at 256 levels, as published.
        generator: on the images' device.
    """
    scale = scale_of(images)
    scaled = max(size * scale, min(size, _SMALLEST))
    noise = torch.randn(
        (len(images), 1, *images.shape[2:]), generator=generator, device=images.device
    )
    # Smoothed over fewer pixels, more of the noise is left: small images would drown.
    noise = smooth(noise, scaled) * (noise_left(size) / noise_left(scaled))
    liquid = noise * deviation + mean
    colour = images.new_tensor(_COLOURS[kind]).view(1, 3, 1, 1)
    if images.shape[1] == 1:
        colour = (colour.flatten() * colour.new_tensor(_LUMA)).sum().view(1, 1, 1, 1)
    if kind == "mud":
        mud = smooth((liquid > threshold).to(images), strength * scaled / size)
        mud = mud.masked_fill(mud < _THINNEST_MUD, 0.0)
        return (images * (1 - mud) + mud * colour).clamp_(0, 1)
    drops = liquid.masked_fill(liquid < threshold, 0.0)
    water = torch.from_numpy(
        np.stack([_water(layer, _FARTHEST * scale) for layer in drops.squeeze(1).cpu().numpy()])
    )
    wet = (images + strength * water.unsqueeze(1).to(images.device) * colour).clamp_(0, 1)
    return _wrapped(wet) if negative else wet


def _water(layer: npt.NDArray[Any], farthest: float) -> npt.NDArray[Any]:
    """Shade drops by the distance from their edges, as if they bent the light.

    Args:
        layer: thickness of the water, 0 where there is none.
        farthest: distance in pixels after which the shade stays the same.
    """
    # Published as a plain cast, which wraps around; no layer of the table reaches 1.
    edges = cv2.Canny(np.clip(layer * 255, 0, 255).astype(np.uint8), *_EDGES)
    away = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
    # Distances count in pixels of the reference size, whatever size the image has.
    away = np.minimum(away, farthest) * (_FARTHEST / farthest)
    shade = cv2.equalizeHist(cv2.blur(away, (3, 3)).astype(np.uint8))
    shade = cv2.blur(cv2.filter2D(shade, cv2.CV_8U, _EMBOSS), (3, 3))
    mask = layer * shade.astype(np.float32)
    return mask / max(float(mask.max()), 1e-12)


def _wrapped(images: Images) -> Images:
    """Multiply 256 levels by 255 and keep what a byte can hold: level k becomes 256 - k."""
    # The hundredth keeps whole levels whole: in float32 some lie just below.
    return (images.double() * 255 * 255 + 0.01).long().remainder(256).to(images.dtype) / 255
