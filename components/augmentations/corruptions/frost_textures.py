"""Frost: ice crystals that grow like feathers, computed, or cut from pictures."""

import functools
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from components.augmentations.corruptions.plasma import plasma
from components.augmentations.corruptions.severity import REFERENCE_SIDE, draw_uniform
from components.tensors import Images

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# Feathers, how long one is against the shorter side, and barbs along a whole side.
_FEATHERS = ((7, 0.55, 26.0), (12, 0.28, 44.0), (16, 0.15, 70.0))
_BRANCHING = math.pi / 3  # water freezes in hexagons
_SLENDERNESS = 2.2
_SHADOW, _ICE = (0.12, 0.19, 0.29), (0.96, 0.99, 1.0)


def grow_frost(count: int, height: int, width: int, *, generator: torch.Generator) -> Images:
    """Grow ice: feathers of three sizes in random directions, denser where it was colder.

    A feather has barbs at 60° along its shaft and finer barbs at 60° along those; of feathers that
    meet, the nearer one covers a pixel. The pattern keeps its look at any size.

    Returns:
        Count x 3 x height x width, bluish.
    """
    cold = plasma(count, height, width, 2.0, generator=generator)
    bend = plasma(count, height, width, 2.2, generator=generator) - 0.5
    side = min(height, width)
    rows, columns = torch.meshgrid(
        (torch.arange(height, device=generator.device) + 0.5) / side,
        (torch.arange(width, device=generator.device) + 0.5) / side,
        indexing="ij",
    )
    places = torch.stack([rows, columns]) + 0.12 * torch.cat([bend, bend.flip(3)], 1)
    ice = 0.35 * cold
    for feathers, length, barbs in _FEATHERS:
        layer = _feathers(places, feathers, length, barbs, (height / side, width / side), generator)
        ice = torch.maximum(ice, layer * (0.5 + 0.7 * cold))
    ice = ice * draw_uniform(tuple(ice.shape), 0.85, 1.15, generator)  # grains glitter
    shadow, white = (ice.new_tensor(colour).view(1, 3, 1, 1) for colour in (_SHADOW, _ICE))
    return torch.lerp(shadow, white, ice.clamp(0, 1))


def _feathers(
    places: Tensor,
    feathers: int,
    length: float,
    barbs: float,
    extent: tuple[float, float],
    generator: torch.Generator,
) -> Images:
    """Draw one layer of feathers.

    Args:
        places: batch x 2 x height x width; the shorter side is 1 long.
        feathers: in each image.
        length: of a feather.
        barbs: along a length of 1.
        extent: height and width of the images.
        generator: of the device to draw on.
    """
    drawn = draw_uniform((5, len(places), feathers), 0.0, 1.0, generator)
    down, across = drawn[0] * extent[0], drawn[1] * extent[1]
    sine, cosine = (2 * math.pi * drawn[2]).sin(), (2 * math.pi * drawn[2]).cos()
    reach, spacing = length * (0.6 + 0.8 * drawn[3]), barbs * (0.8 + 0.4 * drawn[4])
    # Across it, a feather is less than half as wide as it is long. The squared distance is a
    # polynomial of a pixel's place; its six coefficients make all distances one product.
    long, wide = reach.square().reciprocal(), _SLENDERNESS**2 * reach.square().reciprocal()
    vertical, horizontal = long * sine**2 + wide * cosine**2, long * cosine**2 + wide * sine**2
    mixed = 2 * (long - wide) * sine * cosine
    coefficients = torch.stack(
        [
            vertical,
            horizontal,
            mixed,
            -2 * vertical * down - mixed * across,
            -2 * horizontal * across - mixed * down,
            vertical * down**2 + horizontal * across**2 + mixed * down * across,
        ],
        dim=-1,
    )
    y, x = places.flatten(2).unbind(1)
    powers = torch.stack([y * y, x * x, x * y, y, x, torch.ones_like(x)], dim=1)
    squared, nearest = (coefficients @ powers).min(1)
    own = torch.stack([down, across, sine, cosine, spacing])
    down, across, sine, cosine, spacing = own.gather(2, nearest.expand(5, -1, -1))
    along = (y - down) * sine + (x - across) * cosine
    aside = ((y - down) * cosine - (x - across) * sine).abs()
    fading = (1.15 - squared.clamp(min=0).sqrt()).clamp(0, 1)
    return (_feather(along, aside, spacing) * fading).view(len(places), 1, *places.shape[2:])


def _feather(along: Tensor, aside: Tensor, barbs: Tensor) -> Tensor:
    """Shade a feather: shaft, barbs, and barbs of barbs.

    Args:
        along: place along the shaft.
        aside: distance from the shaft.
        barbs: along a length of 1.
    """
    slope = aside / math.tan(_BRANCHING)
    # A barb grows where these are whole; it leaves the shaft at 60°.
    primary = _ridges((along - slope) * barbs) ** 4
    secondary = _ridges((along + slope) * barbs * 2.3) ** 2
    shaft = (1 - aside * barbs * 1.5).clamp(min=0)
    return torch.maximum(shaft, 0.25 + 0.55 * primary + 0.35 * secondary * (1 - primary))


def _ridges(phase: Tensor) -> Tensor:
    """Give 1 at whole numbers, falling to 0 half-way between them."""
    return 1 - 2 * (phase - phase.round()).abs()


def read_frost(
    folder: str, count: int, height: int, width: int, *, generator: torch.Generator
) -> Images:
    """Cut frost from pictures, each image from one at random and at a random place.

    Args:
        folder: with pictures, of ice as it lies on images of the reference size.
        count: how many to cut.
        height: of each.
        width: of each.
        generator: of the device to draw on.

    Raises:
        ValueError: there are no pictures in the folder.
    """
    pictures = _pictures(folder, height, width)
    chosen = torch.randint(
        len(pictures), (count,), generator=generator, device=generator.device
    ).tolist()
    places = draw_uniform((count, 2), 0.0, 1.0, generator).tolist()
    cuts = []
    for picture, (down, across) in zip(chosen, places, strict=True):
        ice = pictures[picture]
        top = int(down * (ice.shape[1] - height + 1))
        left = int(across * (ice.shape[2] - width + 1))
        cuts.append(ice[:, top : top + height, left : left + width])
    return torch.stack(cuts).to(generator.device)


@functools.lru_cache(maxsize=4)
def _pictures(folder: str, height: int, width: int) -> list[Tensor]:
    """Read all pictures, resized for images of this size and at least as large."""
    paths = sorted(
        path
        for path in (Path(folder).iterdir() if Path(folder).is_dir() else ())
        if path.suffix.lower() in _PICTURES
    )
    if not paths:
        raise ValueError(
            f"textures must be a folder with pictures of frost ({', '.join(_PICTURES)}), "
            f"got {folder!r}"
        )
    return [_fitted(path, height, width) for path in paths]


def _fitted(path: Path, height: int, width: int) -> Tensor:
    with Image.open(path) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
    sides = pixels.shape[1:]
    scale = min(height, width) / REFERENCE_SIDE
    scale = max(scale, height / sides[0], width / sides[1])
    size = [max(round(sides[0] * scale), height), max(round(sides[1] * scale), width)]
    resized = functional.interpolate(
        pixels.unsqueeze(0), size=size, mode="area" if scale < 1 else "bilinear"
    )
    return resized.squeeze(0)
