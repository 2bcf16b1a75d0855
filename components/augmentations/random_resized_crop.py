"""Random resized crop: a box of random area and shape is stretched to the image's size."""

import math

import torch
from torch import Tensor

from components.augmentations.boxes import stretch_boxes
from components.augmentations.draws import integers, uniform
from components.tensors import Images, Targets

_RATIOS = (3 / 4, 4 / 3)  # of width to height
_TRIES = 10


def random_resized_crop(
    images: Images,
    targets: Targets,
    *,
    size: int | None = None,
    smallest_area: float = 0.08,
    generator: torch.Generator,
) -> tuple[Tensor, Targets]:
    """Cut a box out of each image and resize it bilinearly.

    Szegedy et al., 2015, https://arxiv.org/abs/1409.4842, section 6, as torchvision does it: the
    area is uniform, the logarithm of the ratio of width to height is uniform between those of 3:4
    and 4:3, and where ten tries give no box that fits, the largest central one of an allowed ratio
    is taken.

    Args:
        images: float in [0, 1].
        targets: pass through.
        size: side of the square that comes out; None keeps the images' height and width.
        smallest_area: of the box, as a share of the image's; the largest is all of it.
        generator: on the images' device; boxes are drawn per image.

    Raises:
        ValueError: smallest_area or size is out of range.
    """
    if not 0 < smallest_area <= 1:
        raise ValueError(f"smallest_area must be above 0 and at most 1, got {smallest_area}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    height, width = images.shape[-2:]
    boxes = draw_boxes(len(images), height, width, smallest_area, generator)
    return stretch_boxes(images, boxes, (size, size) if size else (height, width)), targets


def draw_boxes(
    count: int, height: int, width: int, smallest_area: float, generator: torch.Generator
) -> Tensor:
    """Draw top, left, height and width of so many boxes inside an image."""
    tries = count * _TRIES
    area = uniform(smallest_area, 1, tries, generator) * (height * width)
    ratio = uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1]), tries, generator).exp()
    sides = torch.stack([area / ratio, area * ratio]).sqrt().round().view(2, count, _TRIES)
    limits = torch.tensor([height, width], device=sides.device).view(2, 1, 1)
    fits = ((sides >= 1) & (sides <= limits)).all(0)
    # Earlier tries count more, and any more than none.
    rank = fits * torch.arange(_TRIES, 0, -1, device=sides.device)
    sides = sides.gather(2, rank.argmax(1).view(1, -1, 1).expand(2, -1, 1)).squeeze(2)
    central = torch.tensor(_largest(height, width), device=sides.device).float().view(2, 1)
    found = fits.any(1)
    sides = torch.where(found, sides, central)
    free = limits.squeeze(2) - sides
    starts = torch.where(found, integers(free + 1, generator), (free / 2).floor())
    return torch.cat([starts, sides]).T


def _largest(height: int, width: int) -> tuple[int, int]:
    """Give height and width of the largest box of an allowed ratio."""
    ratio = min(max(width / height, _RATIOS[0]), _RATIOS[1])
    box_height = min(height, round(width / ratio))
    return max(1, box_height), max(1, min(width, round(box_height * ratio)))
