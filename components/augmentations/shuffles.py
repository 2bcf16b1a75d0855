"""Shuffles: channels, halves, patches or neighbouring pixels change places."""

import torch
from torch import Tensor

from components.augmentations.draws import integers, pick, scale_of, spaced
from components.tensors import Images

# Pei et al., 2022, https://arxiv.org/abs/2205.10617; constants are those of its published code.
_CUTS = spaced(0.4, 0.6, 10)
_PATCH_SIDES = [int(side) for side in spaced(80, 100, 20)]  # of 224 pixels
_REACHES = range(3, 10)  # of 224 pixels


def rgb_shuffle(images: Images, *, generator: torch.Generator) -> Images:
    """Put each image's channels in a random order; one in six keeps its own.

    Args:
        images: float in [0, 1]; those with one channel stay as they are.
        generator: on the images' device.
    """
    count, channels = images.shape[:2]
    order = torch.rand(count, channels, generator=generator, device=images.device).argsort(1)
    return images[torch.arange(count, device=images.device).view(-1, 1), order]


def block_shuffle(images: Images, *, generator: torch.Generator) -> Images:
    """Cut each image in two across its height or its width and swap the parts.

    The cut lies at one of ten equally spaced places from 0.4 to 0.6 of the side.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    cut = pick(_CUTS, len(images), generator)
    across_height = integers(torch.full_like(cut, 2), generator) == 0
    swapped = torch.empty_like(images)
    for dimension, chosen in ((2, across_height), (3, ~across_height)):
        at = (cut * images.shape[dimension]).long().tolist()
        for image in chosen.nonzero().flatten().tolist():
            parts = images[image].tensor_split([at[image]], dimension - 1)
            torch.cat(parts[::-1], dimension - 1, out=swapped[image])
    return swapped


def local_shuffle(images: Images, *, generator: torch.Generator) -> Images:
    """Cut each image into square patches and put them back in a random order.

    The patches' side is one of 20 values from 80 to 100 pixels of 224, in proportion to the shorter
    side and at least 1. Patches start at its multiples; the last ones are aligned to the edge, and
    where they overlap the ones before them, they win.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    side = (pick(_PATCH_SIDES, count, generator) * scale_of(images)).round().clamp(min=1).long()
    row, row_starts = _patches(height, side)
    column, column_starts = _patches(width, side)
    starts = (row_starts.unsqueeze(2) * width + column_starts.unsqueeze(1)).flatten(1)
    used = ((row_starts >= 0).unsqueeze(2) & (column_starts >= 0).unsqueeze(1)).flatten(1)
    keys = torch.rand(used.shape, generator=generator, device=images.device)
    # Those of the patches in use, in a random order, take the places of these patches in order.
    to, of = (~used).int().argsort(dim=1, stable=True), keys.masked_fill_(~used, 2.0).argsort(1)
    shift = torch.zeros_like(starts).scatter_(1, to, starts.gather(1, of) - starts.gather(1, to))
    # Each pixel's shift, first by its row's patch, then by its column's.
    shift = shift.view(count, *row_starts.shape[1:], *column_starts.shape[1:])
    shift = shift.gather(1, row.unsqueeze(2).expand(-1, -1, shift.shape[2]))
    shift = shift.gather(2, column.unsqueeze(1).expand(-1, height, -1)).flatten(1)
    return _take(images, shift.add_(torch.arange(height * width, device=images.device)))


def extend(images: Images, *, generator: torch.Generator) -> Images:
    """Replace each pixel by one a little below it and to its right, both distances drawn apart.

    They are whole numbers below a reach, which is drawn per image from 3 to 9 pixels of 224, in
    proportion to the shorter side and at least 2. The last row and column repeat beyond the edge.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    device = images.device
    reach = (pick(_REACHES, count, generator) * scale_of(images)).round().clamp(min=2)
    reach = reach.view(-1, 1, 1) * (1 - 2**-22)  # a product must not be rounded up to the reach
    # The whole part of a number tells one distance, what is left of it the other.
    across = torch.rand(count, height, width, generator=generator, device=device).mul_(reach)
    down = across.floor()
    across.sub_(down).mul_(reach).floor_()
    down.add_(torch.arange(height, device=device).view(-1, 1)).clamp_(max=height - 1)
    across.add_(torch.arange(width, device=device)).clamp_(max=width - 1)
    return _take(images, across.long().add_(down.long(), alpha=width).flatten(1))


def _patches(length: int, side: Tensor) -> tuple[Tensor, Tensor]:
    """Tell in which patch every place along a side lies, and where each image's patches start.

    Images with larger patches have fewer; starts of those that they lack are negative.
    """
    side = side.view(-1, 1)
    patches = (length + side - 1) // side
    place = torch.arange(length, device=side.device)
    patch = torch.where(place >= length - side, patches - 1, place // side)
    number = torch.arange(int(patches.max()) if len(patches) else 1, device=side.device)
    starts = (number * side).minimum(length - side)
    return patch, starts.masked_fill(number >= patches, -1)


def _take(images: Images, places: Tensor) -> Images:
    """Give every pixel the value of another of its image, by place in the flattened image."""
    places = places.unsqueeze(1).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view(images.shape)
