"""Shot, impulse and speckle noise: every colour value of every pixel is disturbed by itself."""

from functools import partial

import torch

from components.augmentations.corruptions.severity import at_severity
from components.tensors import Images

_PHOTONS = ((60.0,), (25.0,), (12.0,), (5.0,), (3.0,))
_AMOUNTS = ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))
_DEVIATIONS = ((0.15,), (0.2,), (0.35,), (0.45,), (0.6,))


def shot_noise(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Count photons: few of them, and the fewer the worse.

    Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261, as all of this package.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(
        images, severity, _PHOTONS, partial(add_shot_noise, generator=generator), generator
    )


def add_shot_noise(images: Images, photons: float, *, generator: torch.Generator) -> Images:
    """Replace each value by a Poisson count of that mean; `photons` make up the value 1."""
    return (torch.poisson(images * photons, generator=generator) / photons).clamp_(0, 1)


def impulse_noise(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Set values to black or white, here and there.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(
        images, severity, _AMOUNTS, partial(add_impulse_noise, generator=generator), generator
    )


def add_impulse_noise(images: Images, amount: float, *, generator: torch.Generator) -> Images:
    """Set a share of all values to 0 or 1, half and half, each channel by itself."""
    drawn = torch.rand(images.shape, generator=generator, device=images.device)
    return images.masked_fill(drawn < amount, 1.0).masked_fill_(drawn < amount / 2, 0.0)


def speckle_noise(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Add Gaussian noise in proportion to each value: what is black stays black.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(
        images, severity, _DEVIATIONS, partial(add_speckle_noise, generator=generator), generator
    )


def add_speckle_noise(images: Images, deviation: float, *, generator: torch.Generator) -> Images:
    """Give x + x N(0, deviation), clipped."""
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return noise.mul_(deviation).add_(1).mul_(images).clamp_(0, 1)
