"""Noise: salt and pepper, coloured points, and normal noise of random strength."""

import torch
from torch import Tensor

from components.augmentations.draws import pick, spaced
from components.tensors import Images

# Pei et al., 2022, https://arxiv.org/abs/2205.10617; constants are those of its published code.
_COLOURS = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # green, red, blue
_BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


def pepper_salt_noise(
    images: Images, *, signal: float = 0.99, generator: torch.Generator
) -> Images:
    """Turn scattered pixels white or black, all channels together.

    Args:
        images: float in [0, 1].
        signal: share of pixels that stay; white and black have half of the rest each.
        generator: on the images' device.

    Raises:
        ValueError: signal is outside [0, 1].
    """
    image, pixel = _scattered_pixels(images, signal, generator)
    white = torch.rand(len(pixel), generator=generator, device=images.device) < 0.5
    return _with_points(images, image, pixel, white.to(images.dtype).view(-1, 1))


def color_point_noise(
    images: Images, *, signal: float = 0.99, generator: torch.Generator
) -> Images:
    """Turn scattered pixels pure green, red or blue, or any colour.

    Args:
        images: float in [0, 1]; one channel gets the colours' brightness.
        signal: share of pixels that stay; the four kinds have a quarter of the rest each.
        generator: on the images' device.

    Raises:
        ValueError: signal is outside [0, 1].
    """
    image, pixel = _scattered_pixels(images, signal, generator)
    device = images.device
    palette = torch.tensor(_COLOURS, device=device)
    points = torch.rand(len(pixel), 3, generator=generator, device=device)
    kind = torch.randint(4, (len(pixel),), generator=generator, device=device)
    points = torch.where((kind < 3).view(-1, 1), palette[kind.clamp(max=2)], points)
    if images.shape[1] == 1:
        points = points @ torch.tensor(_BRIGHTNESS, device=device).view(3, 1)
    return _with_points(images, image, pixel, points)


def gaussian_noise(
    images: Images, *, largest_deviation: float = 0.15, generator: torch.Generator
) -> Images:
    """Add normal noise to every channel of every pixel.

    Args:
        images: float in [0, 1].
        largest_deviation: each image's standard deviation is one of 30 equally spaced values from
            0 to this.
        generator: on the images' device.

    Raises:
        ValueError: largest_deviation is below 0.
    """
    if not largest_deviation >= 0:
        raise ValueError(f"largest_deviation must be at least 0, got {largest_deviation}")
    deviation = pick(spaced(0, largest_deviation, 30), len(images), generator)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return noise.mul_(deviation.view(-1, 1, 1, 1)).add_(images).clamp_(0, 1)


def _scattered_pixels(
    images: Images, signal: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pick each pixel with the same chance; give its image, and its place in it."""
    if not 0 <= signal <= 1:
        raise ValueError(f"signal must be in [0, 1], got {signal}")
    count, _, height, width = images.shape
    places = _scattered(count * height * width, 1 - signal, generator)
    return places // (height * width), places % (height * width)


def _scattered(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Pick each of so many places with the same chance, without drawing a number for each.

    The distance from one picked place to the next has a geometric distribution.
    """
    device = generator.device
    if share in (0, 1):
        return torch.arange(count if share else 0, device=device)
    expected = count * share
    at_once = int(expected + 6 * expected**0.5) + 8  # one round nearly always reaches the end
    rounds, last = [], -1
    while last < count - 1:
        gaps = torch.empty(at_once, dtype=torch.int64, device=device)
        rounds.append(last + gaps.geometric_(share, generator=generator).cumsum(0))
        last = int(rounds[-1][-1])
    places = torch.cat(rounds) if rounds else torch.arange(0, device=device)
    return places[places < count]


def _with_points(images: Images, image: Tensor, pixel: Tensor, points: Tensor) -> Images:
    """Copy the images and set some pixels to their point's channels."""
    noisy = images.clone(memory_format=torch.contiguous_format)
    noisy.flatten(2)[image, :, pixel] = points.expand(-1, images.shape[1])
    return noisy
