"""Contrast, brightness and saturation; the last two in hue, saturation and value."""

import torch

from components.augmentations.corruptions.severity import at_severity
from components.tensors import Images

_CONTRASTS = ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))
_BRIGHTNESSES = ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))
_SATURATIONS = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2))


def contrast(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Bring all pixels closer to their mean.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _CONTRASTS, scale_contrast, generator)


def scale_contrast(images: Images, factor: float) -> Images:
    """Scale each channel's distances from its mean; 1 changes nothing."""
    means = images.mean((2, 3), keepdim=True)
    # In this form a factor of 1 gives back the very same numbers.
    return torch.lerp(means.expand_as(images), images, factor).clamp_(0, 1)


def brightness(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Make everything brighter.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _BRIGHTNESSES, add_brightness, generator)


def add_brightness(images: Images, amount: float) -> Images:
    """Add to the value, clipped at 1, and keep hue and saturation; 0 changes nothing.

    With these two kept, the channels keep their proportions; black has none and turns grey.
    """
    if amount == 0:
        return images.clone()
    value = images.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1)
    return torch.where(value > 0, images / value * brighter, brighter).clamp_(0, 1)


def saturate(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Make colours pale (severities 1 and 2) or garish (3 to 5).

    Grey images stay as they are. Grey pixels of coloured images, which have no hue, count as red
    where saturation is added, as in every library.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _SATURATIONS, scale_saturation, generator)


def scale_saturation(images: Images, factor: float, amount: float) -> Images:
    """Scale and shift the saturation, clipped to [0, 1]; 1 and 0 change nothing.

    With hue and value kept, each channel's distance from the brightest one is in proportion to
    the saturation.
    """
    if images.shape[1] == 1 or (factor, amount) == (1.0, 0.0):
        return images.clone()
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    saturation = torch.where(value > 0, chroma / value, 0.0)
    wanted = (saturation * factor + amount).clamp(0, 1) * value
    red = wanted * images.new_tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1)
    distances = torch.where(chroma > 0, (value - images) / chroma * wanted, red)
    return (value - distances).clamp_(0, 1)
