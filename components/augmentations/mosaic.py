"""Mosaic: one square block of each image is replaced by noise or one tone."""

import torch
from torch import Tensor

from components.augmentations.draws import integers, pick, scale_of
from components.tensors import Images, PerSample

_SIDES = range(13, 27)  # of 224 pixels
_TONES = (0.0, 1.0, 127 / 255)  # each with the same chance
_NOISE_SHARE = 0.7


def mosaic(images: Images, *, generator: torch.Generator) -> Images:
    """Cover a square with random colours (7 of 10 images), black, white or grey (1 of 10 each).

    The square's side is between 13 and 26 pixels of 224, in proportion to the shorter side and at
    least 1, and it keeps twice its side away from every edge, or is central where it cannot. As in
    the published code of Pei et al., 2022, https://arxiv.org/abs/2205.10617.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    count, channels, height, width = images.shape
    device = images.device
    side = (pick(_SIDES, count, generator) * scale_of(images)).round().clamp(min=1)
    top, left = (_start(length, side, generator) for length in (height, width))
    image, row, column = _squares(side)
    points = torch.rand(len(image), channels, generator=generator, device=device)
    tone = pick(_TONES, count, generator)
    noisy = torch.rand(count, generator=generator, device=device) < _NOISE_SHARE
    points = torch.where(noisy[image].view(-1, 1), points, tone[image].view(-1, 1))
    covered = images.clone()
    covered[image, :, top.long()[image] + row, left.long()[image] + column] = points
    return covered


def _start(length: int, side: PerSample, generator: torch.Generator) -> PerSample:
    """Draw where each square starts along one direction."""
    free = length - 4 * side
    central = ((length - side) / 2).floor()
    drawn = 2 * side + integers(free.clamp(min=1), generator)
    return torch.where(free >= 1, drawn, central)


def _squares(side: PerSample) -> tuple[Tensor, ...]:
    """List every pixel of every square: its image, row and column."""
    largest = int(side.max()) if len(side) else 0
    within = torch.arange(largest, device=side.device) < side.view(-1, 1)
    return (within.unsqueeze(2) & within.unsqueeze(1)).nonzero(as_tuple=True)
