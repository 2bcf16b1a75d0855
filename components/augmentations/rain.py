"""Rain: bright slanting streaks over each image."""

import torch
from torch import Tensor
from torch.nn import functional

from components.augmentations.blurs import filter_each
from components.augmentations.draws import pick, scale_of, spaced
from components.tensors import Images, PerSample

_DROPS = (500.0, 700.0, 900.0, 1100.0, 1300.0, 1500.0)  # of 25,600 pixels
_ANGLES, _BRIGHTNESS = spaced(-30, 30, 10), spaced(0.7, 1, 10)
_LENGTH, _SHORTEST = 10, 3  # pixels of 224, and of any image
_CROSS = ((0.0, 0.1, 0.0), (0.1, 8.0, 0.1), (0.0, 0.1, 0.0))
_SMOOTHING = (0.25, 0.5, 0.25)


def rain(images: Images, *, generator: torch.Generator) -> Images:
    """Let it rain: scattered drops, smeared along one direction per image, cover the picture.

    Drops lie on 2 to 6 of 100 pixels and streaks are 10 pixels of 224 long, in proportion to the
    shorter side and at least 3, within 30 degrees of the vertical. As in the published code of Pei
    et al., 2022, https://arxiv.org/abs/2205.10617, but drops also fall in from outside the image,
    where there its pixels are mirrored at the edge.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    drops = pick(_DROPS, count, generator).view(-1, 1, 1, 1) / 100
    angle, brightness = pick(_ANGLES, count, generator), pick(_BRIGHTNESS, count, generator)
    length = max(_SHORTEST, round(_LENGTH * scale_of(images)))
    shape = (count, 1, height + length + 1, width + length + 1)
    noise = torch.rand(shape, generator=generator, device=images.device).mul_(256)
    noise = torch.where(noise >= 256 - drops, noise, 0.0)
    layer = filter_each(noise, _drop_kernels(angle, length))
    least, most = layer.amin((1, 2, 3), keepdim=True), layer.amax((1, 2, 3), keepdim=True)
    layer = (layer - least).div_((most - least).clamp(min=torch.finfo(layer.dtype).tiny))
    return torch.lerp(images, brightness.view(-1, 1, 1, 1), layer).clamp_(0, 1)


def streak_kernels(angle: PerSample, length: int) -> Tensor:
    """Draw a smoothed line of so many pixels, turned away from the vertical by each angle.

    It is the diagonal of a square, turned by the angle less 45 degrees about half its side, scaled
    by 0.9, read bilinearly, and smoothed by 1, 2, 1 along both directions.
    """
    turn = torch.deg2rad(angle - 45).view(-1, 1, 1)
    y = (torch.arange(length, device=angle.device) - length / 2).view(-1, 1)
    x = torch.arange(length, device=angle.device) - length / 2
    from_x = (turn.cos() * x - turn.sin() * y) / 0.9 + length / 2
    from_y = (turn.sin() * x + turn.cos() * y) / 0.9 + length / 2
    diagonal = torch.arange(length, device=angle.device)
    nearness = [(1 - (at.unsqueeze(3) - diagonal).abs()).clamp(min=0) for at in (from_x, from_y)]
    line = (nearness[0] * nearness[1]).sum(3)
    smoothing = torch.tensor(_SMOOTHING, device=angle.device)
    line = functional.pad(line.unsqueeze(1), (1, 1, 1, 1), mode="reflect")
    both = (smoothing.view(1, -1) * smoothing.view(-1, 1)).view(1, 1, 3, 3)
    return functional.conv2d(line, both).squeeze(1)


def _drop_kernels(angle: PerSample, length: int) -> Tensor:
    """Join the cross that a drop first becomes with its streak, for one pass instead of two."""
    cross = torch.tensor(_CROSS, device=angle.device).view(1, 1, 3, 3)
    return functional.conv2d(streak_kernels(angle, length).unsqueeze(1), cross, padding=2)[:, 0]
