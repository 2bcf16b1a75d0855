"""What operations draw for each image, and lengths given for a side of 224 pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from components.tensors import Images, PerSample

_REFERENCE_SIDE = 224


def uniform(low: float, high: float, count: int, generator: torch.Generator) -> PerSample:
    """Draw a number between low and high for each image."""
    drawn = torch.rand(count, generator=generator, device=generator.device)
    return low + (high - low) * drawn


def pick(values: Sequence[float], count: int, generator: torch.Generator) -> PerSample:
    """Draw one of the values for each image, all with the same chance."""
    device = generator.device
    places = torch.randint(len(values), (count,), generator=generator, device=device)
    return torch.tensor(values, device=device, dtype=torch.float32)[places]


def integers(below: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a whole number from 0 up to, but not including, each of the given ones."""
    drawn = torch.rand(below.shape, generator=generator, device=below.device)
    return (drawn * below).floor().minimum(below - 1)


def spaced(low: float, high: float, count: int) -> list[float]:
    """Give equally spaced values, both ends included."""
    return [low + (high - low) * step / (count - 1) for step in range(count)]


def scale_of(images: Images) -> float:
    """Give the shorter side in units of the 224 pixels for which the lengths were published."""
    return min(images.shape[-2:]) / _REFERENCE_SIDE
