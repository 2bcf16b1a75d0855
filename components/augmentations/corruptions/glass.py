"""Glass blur: pixels change places with their neighbours, as behind frosted glass."""

import math
from functools import partial

import torch
from torch import Tensor

from components.augmentations.corruptions.filtering import smooth
from components.augmentations.corruptions.severity import at_severity, scale_of
from components.tensors import Images

_GLASSES = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))


def glass_blur(
    images: Images,
    *,
    severity: int = 0,
    copies: bool = False,
    mixes_colours: bool = False,
    generator: torch.Generator,
) -> Images:
    """Blur, let pixels change places with neighbours, and blur again.

    Lengths are meant for a shorter side of 224 pixels; for others they grow and shrink with it. Of
    the shifts, it is the root of their mean square: in small images, fewer pixels move.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        copies: as published with ImageNet-C, where the second pixel never receives the first, and
            no shift reaches the full distance down or to the right.
        mixes_colours: as published with gradient concealment, where the blur runs down columns
            and across colours, but never along rows.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    look = partial(
        see_through_glass, copies=copies, mixes_colours=mixes_colours, generator=generator
    )
    return at_severity(images, severity, _GLASSES, look, generator)


def see_through_glass(
    images: Images,
    deviation: float,
    distance: int,
    passes: int,
    *,
    copies: bool = False,
    mixes_colours: bool = False,
    generator: torch.Generator,
) -> Images:
    """Blur, shuffle and blur.

    Args:
        images: float32 in [0, 1].
        deviation: of both Gaussian blurs, in pixels of the reference size.
        distance: the most rows and columns by which two pixels that change places are apart.
        passes: how often every pixel gets its turn.
        copies: whether the second pixel stays as it is.
        mixes_colours: whether the blur runs across colours instead of along rows.
        generator: on the images' device.
    """
    scale = scale_of(images)
    blurred = _blur(images, deviation * scale, mixes_colours)
    spread = distance * (distance + 1) * scale**2
    sources = wander(images, spread, passes, copies=copies, generator=generator)
    moved = blurred.flatten(2).gather(2, sources.unsqueeze(1).expand(-1, images.shape[1], -1))
    return _blur(moved.view_as(images), deviation * scale, mixes_colours).clamp(0, 1)


def wander(
    images: Images, spread: float, passes: int, *, copies: bool, generator: torch.Generator
) -> Tensor:
    """Say for each pixel which one comes to stand in its place.

    Pixels take their turns row by row from the bottom right, as published. Turns whose
    neighbourhoods do not meet are taken at once: with neighbourhoods of n x n, the pixel n columns
    further in one row does not meet the pixel of the next.

    Args:
        images: of these, only the shape matters.
        spread: three times the mean square of a shift down or across, in pixels; shifts uniform on
            -n to n have n (n + 1).
        passes: how often every pixel gets its turn.
        copies: whether the second pixel stays as it is.
        generator: on the images' device.

    Returns:
        Batch x (height times width), row by row.
    """
    count, _, height, width = images.shape
    device = images.device
    sources = torch.arange(height * width, device=device).repeat(count, 1)
    reach = _reach(spread)
    turns = _turns(height, width, reach, copies)
    if reach == 0 or not turns:
        return sources
    sizes = [len(pixels) for pixels in turns]
    turns = torch.cat(turns).to(device).split(sizes)
    for _ in range(passes):
        down, across = _shifts((2, count, sum(sizes)), spread, copies, generator)
        for places, step in zip(turns, (down * width + across).split(sizes, 1), strict=True):
            others = places + step
            arriving = sources.gather(1, others)
            if not copies:
                sources.scatter_(1, others, sources[:, places])
            sources[:, places] = arriving
    return sources


def _reach(spread: float) -> int:
    """Give the smallest n for which n (n + 1) is at least the spread."""
    return math.ceil(math.sqrt(spread + 0.25) - 0.5)


def _shifts(
    shape: tuple[int, ...], spread: float, copies: bool, generator: torch.Generator
) -> Tensor:
    """Draw whole numbers from -n to n, or -n + 1 to n - 1 as often as brings about the spread.

    Where pixels are copied, n itself is never drawn.
    """
    reach, device = _reach(spread), generator.device
    shifts = torch.randint(-reach, reach + (not copies), shape, generator=generator, device=device)
    share = (spread - (reach - 1) * reach) / (2 * reach)
    if share >= 1:
        return shifts
    shorter = torch.zeros_like(shifts)
    if reach > 1:
        limits = 1 - reach, reach - copies
        shorter = torch.randint(*limits, shape, generator=generator, device=device)
    farther = torch.rand(shape[1:], generator=generator, device=device) < share
    return torch.where(farther, shifts, shorter)


def _turns(height: int, width: int, reach: int, copies: bool) -> list[Tensor]:
    """Give the pixels of each turn, of all whose neighbourhood lies inside the image.

    Where pixels are copied, no shift is positive in full, so one row and column more at the bottom
    right have their turn; as published, one less at the top left has.
    """
    rows = range(height - 1 - reach + copies, reach - 1 + copies, -1)
    columns = range(width - 1 - reach + copies, reach - 1 + copies, -1)
    if not rows or not columns:
        return []
    turns = (2 * reach + 1) * torch.arange(len(rows)).unsqueeze(1) + torch.arange(len(columns))
    pixels = torch.tensor(rows).unsqueeze(1) * width + torch.tensor(columns)
    order = turns.flatten().argsort(stable=True)
    sizes = torch.bincount(turns.flatten())
    return [part for part in pixels.flatten()[order].split(sizes.tolist()) if len(part)]


def _blur(images: Images, deviation: float, mixes_colours: bool) -> Images:
    if not mixes_colours:
        return smooth(images, deviation)
    # The last two axes are smoothed: let them be height and colours.
    return smooth(images.permute(0, 3, 2, 1), deviation).permute(0, 3, 2, 1)
