"""Random numbers keyed by sample: the same for an image whatever batch it comes in."""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 2**64 divided by the golden ratio, as a signed integer
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def sample_seeds(seed: int | Tensor, num_images: int, device: torch.device) -> Tensor:
    """Give each image its own seed.

    Args:
        seed: one seed, which is combined with each image's position, or a seed per image.
        num_images: length of the result.
        device: of the result.

    Raises:
        ValueError: there is not one seed per image.
    """
    if isinstance(seed, Tensor):
        if seed.shape != (num_images,):
            raise ValueError(f"seed must hold one entry per image, got {tuple(seed.shape)}")
        return seed.to(device=device, dtype=torch.int64)
    return mix(torch.arange(num_images, device=device), seed)


def mix(values: Tensor, key: int) -> Tensor:
    """Scramble 64-bit integers under a key; neighbouring inputs give unrelated outputs.

    The finaliser of SplitMix64 (Steele, Lea, Flood, 2014). Integer arithmetic wraps around, so the
    result is the same on every device.
    """
    values = values + (key + 1) * _GOLDEN % 2**63
    # In place from here on: fresh memory would cost more than the arithmetic.
    values.bitwise_xor_(_shift_right(values, 30)).mul_(_FIRST)
    values.bitwise_xor_(_shift_right(values, 27)).mul_(_SECOND)
    return values.bitwise_xor_(_shift_right(values, 31))


def uniform(seeds: Tensor, shape: tuple[int, ...], *, stream: int) -> Tensor:
    """Draw float32 numbers uniform on [0, 1), of shape (len(seeds), *shape).

    Args:
        seeds: one per image.
        shape: of what one image gets.
        stream: a different one gives different numbers, as each restart of an attack needs.
    """
    count = 1
    for size in shape:
        count *= size
    keys = mix(seeds, stream).unsqueeze(1)
    counters = mix(torch.arange(count, device=seeds.device), 0).unsqueeze(0)
    bits = _shift_right(mix(keys ^ counters, 1), 40)
    return (bits.to(torch.float32) * 2.0**-24).view(len(seeds), *shape)


def normal(seeds: Tensor, shape: tuple[int, ...], *, stream: int) -> Tensor:
    """Draw float32 standard normal numbers by the transform of Box and Muller, 1958."""
    radius = torch.sqrt(-2 * torch.log1p(-uniform(seeds, shape, stream=2 * stream)))
    angle = 2 * torch.pi * uniform(seeds, shape, stream=2 * stream + 1)
    return radius * torch.cos(angle)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Shift without dragging the sign along, which `>>` on signed integers would do."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)
