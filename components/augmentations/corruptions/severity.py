"""Five severities of a corruption: each image gets the strengths of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from components.tensors import Images

REFERENCE_SIDE = 224
"""Strengths that are lengths in pixels are meant for images whose shorter side is this long."""


def scale_of(images: Images) -> float:
    """Give the length in these images that a pixel has in images of the reference size."""
    return min(images.shape[-2:]) / REFERENCE_SIDE


@torch.no_grad()
def at_severity(
    images: Images,
    severity: int,
    strengths: Sequence[tuple[Any, ...]],
    corrupt: Callable[..., Images],
    generator: torch.Generator,
) -> Images:
    """Corrupt each image with the strengths of its severity.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5 for all images; 0 draws one of the five per image, with equal chances.
        strengths: positional arguments of the corruption, for severity 1 first.
        corrupt: from images and strengths to images.
        generator: on the images' device.

    Raises:
        ValueError: severity is not 0 to 5, or the images are neither grey nor coloured.
    """
    if severity not in range(len(strengths) + 1):
        raise ValueError(f"severity must be 0 (drawn) or 1 to {len(strengths)}, got {severity}")
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {images.shape[1]}")
    corrupted = torch.empty_like(images)
    levels = torch.full((len(images),), severity - 1, device=images.device)
    if severity == 0:
        levels.random_(len(strengths), generator=generator)
    for level, strength in enumerate(strengths):
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows):
            corrupted[rows] = corrupt(images[rows], *strength)
    return corrupted


def draw_uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw float32 numbers uniform on [low, high) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low
