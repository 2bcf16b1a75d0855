"""Table RULES: importance of pixels -> how much of the larger epsilon each of them gets."""

import math
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

_COLOURS = 256
# Corners of the colour map "jet" as matplotlib defines it: position, value.
_JET = (
    ((0.0, 0.0), (0.35, 0.0), (0.66, 1.0), (0.89, 1.0), (1.0, 0.5)),
    ((0.0, 0.0), (0.125, 0.0), (0.375, 1.0), (0.64, 1.0), (0.91, 0.0), (1.0, 0.0)),
    ((0.0, 0.5), (0.11, 1.0), (0.34, 1.0), (0.65, 0.0), (1.0, 0.0)),
)


def zscore(maps: Tensor, *, power: float = 1.0, deviations: float = 1.0) -> Tensor:
    """Choose the pixels whose ``map ** power`` exceeds the image's mean by so many deviations.

    The monotone reading of the published code, which takes one deviation. The most important pixel
    is always chosen.

    Args:
        maps: in [0, 1], of shape (batch, 1, height, width).
        power: 2 chooses fewer pixels.
        deviations: above the mean; the standard deviation is that of the population.
    """
    values = maps.clamp_min(0) ** power
    mean = values.mean((1, 2, 3), keepdim=True)
    deviation = values.std((1, 2, 3), correction=0, keepdim=True)
    return _with_peak(values > mean + deviations * deviation, maps)


def quantile(maps: Tensor, *, share: float = 0.2) -> Tensor:
    """Choose the same share of every image's pixels, the most important ones.

    Among equals the first ones are chosen; at least one is.

    Raises:
        ValueError: the share lies outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    counts = torch.full((len(maps),), share * maps[0].numel(), device=maps.device)
    return highest(maps, counts)


def threshold(maps: Tensor, *, value: float = 0.5) -> Tensor:
    """Choose the pixels above a value, and the most important one in any case."""
    return _with_peak(maps > value, maps)


def soft(maps: Tensor) -> Tensor:
    """Let epsilon grow with importance, in a straight line and without any threshold."""
    return maps.clamp(0, 1)


def release_jet(maps: Tensor) -> Tensor:
    """Choose as the published code does, which is not by importance: for reproduction alone.

    The squared map is painted in the colours of "jet", each colour is taken for the mask of one
    channel, and chosen is what exceeds the mean of all colours by one standard deviation. Peaks are
    dark in all three colours, so the most important pixels are not chosen. Three channels come out.
    """
    warnings.warn(
        "release_jet leaves out the most important pixels, as the published code of PART does; "
        "it is meant for reproducing that code",
        stacklevel=2,
    )
    places = (maps.squeeze(1).square() * _COLOURS).long().clamp(0, _COLOURS - 1)
    colours = _jet().to(maps.device)[places].permute(0, 3, 1, 2)
    mean = colours.mean((1, 2, 3), keepdim=True)
    deviation = colours.std((1, 2, 3), correction=0, keepdim=True)
    return ((colours - mean) / deviation > 1).float()


RULES: dict[str, Callable[..., Tensor]] = {
    "quantile": quantile,
    "release_jet": release_jet,
    "soft": soft,
    "threshold": threshold,
    "zscore": zscore,
}


def highest(maps: Tensor, counts: Tensor) -> Tensor:
    """Choose so many pixels of each image, the highest and among equals the first.

    Args:
        maps: of shape (batch, 1, height, width).
        counts: one per image, rounded; at least one pixel is chosen.
    """
    flat = maps.flatten(1)
    ranks = flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (ranks < counts.round().clamp_min(1)[:, None]).float().view_as(maps)


def _with_peak(chosen: Tensor, maps: Tensor) -> Tensor:
    return (chosen | (maps == maps.amax((1, 2, 3), keepdim=True))).float()


@cache
def _jet() -> Tensor:
    """Give red, green and blue of each of the colour map's entries."""
    places = [i / (_COLOURS - 1) for i in range(_COLOURS)]
    return torch.tensor([[_between(corners, place) for corners in _JET] for place in places])


def _between(corners: tuple[tuple[float, float], ...], place: float) -> float:
    for (left, low), (right, high) in pairwise(corners):
        if place <= right:
            return low + (high - low) * (place - left) / (right - left)
    return math.nan
