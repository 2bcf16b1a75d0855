"""Random resize-pad: each image gets another size and place, on black."""

import torch
from torch import Tensor

from components.augmentations.draws import integers
from components.tensors import Images, Targets


def random_resize_pad(
    images: Images, targets: Targets, *, min_size: float = 0.85, generator: torch.Generator
) -> tuple[Images, Targets]:
    """Shrink each image to a random size and pad it back at a random place.

    The draws of the defence of the same name, but for each image, and while training only: Xie et
    al., 2018, https://arxiv.org/abs/1711.01991. Height and width are drawn apart; pixels are
    picked, not mixed.

    Args:
        images: float in [0, 1].
        targets: pass through.
        min_size: smallest side, as a share of the image's side; the largest is the side itself.
        generator: on the images' device.

    Raises:
        ValueError: min_size is out of range.
    """
    if not 0 < min_size <= 1:
        raise ValueError(f"min_size must be above 0 and at most 1, got {min_size}")
    count, _, height, width = images.shape
    row, row_exists = _sources(height, min_size, count, generator)
    column, column_exists = _sources(width, min_size, count, generator)
    places = (row.unsqueeze(2) * width + column.unsqueeze(1)).flatten(1).unsqueeze(1)
    picked = images.flatten(2).gather(2, places.expand(-1, images.shape[1], -1))
    exists = row_exists.unsqueeze(2) & column_exists.unsqueeze(1)
    return picked.view(images.shape) * exists.unsqueeze(1), targets


def _sources(
    side: int, min_size: float, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tell for every place along a side where it comes from, and whether it comes from anywhere."""
    smallest = max(1, round(side * min_size))
    choices = torch.full((count,), side + 1.0 - smallest, device=generator.device)
    new_side = smallest + integers(choices, generator)
    start = integers(side - new_side + 1, generator)
    place = torch.arange(side, device=generator.device) - start.long().view(-1, 1)
    new_side = new_side.long().view(-1, 1)
    exists = (place >= 0) & (place < new_side)
    return (place * side // new_side).clamp(0, side - 1), exists
