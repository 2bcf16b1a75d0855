"""Crop and flip: each image moves a few pixels, and may be mirrored."""

import torch
from torch.nn import functional

from components.tensors import Images, Targets


def crop_and_flip(
    images: Images,
    targets: Targets,
    *,
    padding: int = 4,
    flip_probability: float = 0.5,
    generator: torch.Generator,
) -> tuple[Images, Targets]:
    """Pad with black, cut the old size out at a random place, and mirror left to right at random.

    The augmentation of He et al., 2016, https://arxiv.org/abs/1512.03385, section 4.2.

    Args:
        images: float in [0, 1].
        targets: pass through.
        padding: pixels added on each side; 0 leaves every image in its place.
        flip_probability: in [0, 1]; 0 for images whose mirror image means something else.
        generator: on the images' device; place and mirroring are drawn per image.

    Raises:
        ValueError: padding or flip_probability is out of range.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"flip_probability must be in [0, 1], got {flip_probability}")
    count, _, height, width = images.shape
    device = images.device
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator, device=device)
    padded = functional.pad(images, (padding, padding, padding, padding))
    # Every crop there is, as a view; taking one per image copies just those.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    cropped = crops[torch.arange(count, device=device), :, top, left]
    if flip_probability == 0:
        return cropped, targets
    flipped = torch.rand(count, generator=generator, device=device) < flip_probability
    return torch.where(flipped.view(-1, 1, 1, 1), cropped.flip(3), cropped), targets
