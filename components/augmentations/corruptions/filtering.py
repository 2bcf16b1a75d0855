"""Gaussian smoothing and convolution for images of any size, and the kernels of the blurs."""

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from components.tensors import Images, PerSample

Border = Literal["nearest", "reflect", "mirror"]
"""What lies outside an image: a a|a b c|c c, b a|a b c|c b or c b|a b c|b a."""


def smooth(
    images: Images, deviation: float, *, truncate: float = 4.0, border: Border = "nearest"
) -> Images:
    """Smooth with a Gaussian, along rows and columns.

    Args:
        images: any floats.
        deviation: of the Gaussian, in pixels; 0 changes nothing.
        truncate: deviations after which the Gaussian is cut off.
        border: what lies outside.
    """
    if deviation == 0:
        return images
    vertical, horizontal = (
        _smoothing(side, deviation, truncate, border).to(images) for side in images.shape[-2:]
    )
    return vertical @ images @ horizontal.mT


def gaussian_weights(deviation: float, radius: int) -> Tensor:
    """Give the 2 radius + 1 weights of a Gaussian, float64, with sum 1."""
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.zeros_like(places)
    weights[radius] = 1.0
    if deviation > 0:
        weights = torch.exp(-(places**2) / (2 * deviation**2))
    return weights / weights.sum()


def noise_left(deviation: float) -> float:
    """Give the share of white noise's deviation that smoothing with a Gaussian leaves."""
    return float(gaussian_weights(deviation, int(4 * deviation + 0.5)).square().sum())


def convolve(images: Images, kernels: Tensor, *, border: Border) -> Images:
    """Correlate each image with its own kernel.

    In the frequency domain, where the cost does not grow with the kernel; the rounding is that of
    float32 all the same.

    Args:
        images: in [0, 1].
        kernels: one per image or one for all, of odd height and width.
        border: what lies outside.

    Returns:
        Images in [0, 1], for kernels of non-negative weights with sum 1.
    """
    height, width = images.shape[-2:]
    sizes = height + kernels.shape[-2] - 1, width + kernels.shape[-1] - 1
    padded = images
    for axis, (side, size) in enumerate(zip((height, width), sizes, strict=True), start=2):
        places = torch.arange(size, device=images.device) - (size - side) // 2
        padded = padded.index_select(axis, fold(places, side, border))
    fast = tuple(_fast_length(size) for size in sizes)
    spectrum = torch.fft.rfft2(padded, s=fast)
    spectrum *= torch.fft.rfft2(kernels.to(images), s=fast).conj().unsqueeze(1)
    return torch.fft.irfft2(spectrum, s=fast)[..., :height, :width].clamp(0, 1)


def fold(places: Tensor, side: int, border: Border) -> Tensor:
    """Give the pixel, from 0 to side - 1, that stands in for each place outside."""
    if border == "nearest" or side == 1:
        return places.clamp(0, side - 1)
    period = 2 * side if border == "reflect" else 2 * side - 2
    last = period - 1 if border == "reflect" else period
    places = places % period
    return torch.where(places < side, places, last - places)


def disk(radius: float, deviation: float, *, scale: float = 1.0) -> Tensor:
    """Give the kernel of a lens out of focus: an even disk whose rim a small Gaussian softens.

    For another scale its points move together or apart, and each is shared among the four pixels
    around it, so that a small disk still blurs by less than a pixel.

    Args:
        radius: in pixels of the reference size; 0 gives a single point.
        deviation: of the Gaussian, of 3 x 3 points up to radius 8 and of 5 x 5 above.
        scale: of the images against the reference size.

    Returns:
        1 x height x width, sum 1.
    """
    finer = max(1, math.ceil(scale))
    reach = math.floor(radius * finer)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64) / finer
    points = torch.cartesian_prod(places, places)
    points = points[points.square().sum(1) <= radius**2]
    taps = gaussian_weights(deviation, 1 if radius <= 8 else 2)
    around = torch.arange(len(taps), dtype=torch.float64) - len(taps) // 2
    points = (points.unsqueeze(1) + torch.cartesian_prod(around, around)).flatten(0, 1)
    weights = torch.outer(taps, taps).flatten().repeat(len(points) // len(taps) ** 2)
    return _kernels(points.unsqueeze(0) * scale, weights)


def line(radius: int, deviation: float, angles: PerSample, *, scale: float = 1.0) -> Tensor:
    """Give the kernels of movements along straight lines.

    Args:
        radius: taps on each side of the middle one, a pixel of the reference size apart.
        deviation: of the taps' Gaussian weights, in pixels of the reference size.
        angles: of the movements, in radians.
        scale: of the images against the reference size.

    Returns:
        Angles x height x width, each of sum 1.
    """
    finer = max(1, math.ceil(scale))
    weights = gaussian_weights(deviation * finer, radius * finer).to(angles.device)
    along = torch.arange(-radius * finer, radius * finer + 1, device=angles.device) * scale / finer
    directions = torch.stack([angles.sin(), angles.cos()], dim=1).double()
    return _kernels(directions.unsqueeze(1) * along.view(1, -1, 1), weights)


def _kernels(points: Tensor, weights: Tensor) -> Tensor:
    """Share points' weights among the four pixels around each.

    Args:
        points: kernels x points x 2, rows and columns from the middle.
        weights: one per point.
    """
    reach = math.ceil(float(points.abs().max()) - 1e-9)
    side = 2 * reach + 3  # a pixel more than needed, so that every point has four around it
    corner = points.floor()
    share = points - corner
    first = (corner + reach + 1).long().clamp(0, side - 2)
    kernels = points.new_zeros(len(points), side * side)
    for down in (0, 1):
        for across in (0, 1):
            vertical = share[..., 0] if down else 1 - share[..., 0]
            horizontal = share[..., 1] if across else 1 - share[..., 1]
            places = (first[..., 0] + down) * side + first[..., 1] + across
            kernels.scatter_add_(1, places, vertical * horizontal * weights.to(points))
    kernels = (kernels / weights.sum()).view(-1, side, side)
    return kernels[:, 1:-1, 1:-1].float()


@functools.lru_cache(maxsize=64)
def _smoothing(side: int, deviation: float, truncate: float, border: Border) -> Tensor:
    """Give the matrix that smooths a line of pixels, with what it takes from outside folded in."""
    radius = int(truncate * deviation + 0.5)
    pixels = torch.arange(side).unsqueeze(1) + torch.arange(-radius, radius + 1)
    weights = gaussian_weights(deviation, radius).expand(side, -1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, fold(pixels, side, border), weights).float()


def _fast_length(size: int) -> int:
    """Give the next length without prime factors above 5."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
