"""JPEG compression, large pixels and elastic deformation: what computers do to images."""

import io
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from components.augmentations.corruptions.filtering import noise_left, smooth
from components.augmentations.corruptions.severity import at_severity, draw_uniform, scale_of
from components.tensors import Images

_QUALITIES = ((25,), (18,), (15,), (10,), (7,))
_FACTORS = ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))
# Published as multiples of 244, by which 224 was probably meant.
_DEFORMATIONS = tuple(
    tuple(244 * length for length in lengths)
    for lengths in (
        (2.0, 0.7, 0.1),
        (2.0, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )
)


def compress(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Save as JPEG of low quality.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _QUALITIES, save_as_jpeg, generator)


def save_as_jpeg(images: Images, quality: int) -> Images:
    """Round to 256 levels, encode as Pillow does, decode."""
    levels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = [
        _through_jpeg(level.squeeze(-1) if level.shape[-1] == 1 else level, quality)
        for level in levels
    ]
    stacked = torch.from_numpy(np.stack(decoded)).view(levels.shape)
    return stacked.to(images.device).permute(0, 3, 1, 2).to(images.dtype).div(255).contiguous()


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


def pixelate(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Shrink, and enlarge again without smoothing.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(images, severity, _FACTORS, enlarge_pixels, generator)


def enlarge_pixels(images: Images, factor: float) -> Images:
    """Shrink both sides by a factor, at least to one pixel, and enlarge; 1 changes nothing.

    Both with the box filter of Pillow, which counts whole pixels: those whose middle lies in the
    box.
    """
    for axis in (2, 3):
        side = images.shape[axis]
        few = max(1, int(side * factor))
        if few < side:
            small = _box(side, few).to(images)
            images = torch.tensordot(images, _box(few, side).to(images) @ small, ([axis], [1]))
            images = images.movedim(-1, axis)
    return images.clamp(0, 1)


def _box(side: int, wanted: int) -> Tensor:
    """Give the matrix that resizes a line of pixels with the box filter."""
    ratio = side / wanted
    support = 0.5 * max(1.0, ratio)
    matrix = torch.zeros(wanted, side, dtype=torch.float64)
    for row in range(wanted):
        middle = (row + 0.5) * ratio
        first = max(0, int(middle - support + 0.5))
        end = min(side, int(middle + support + 0.5))
        matrix[row, first:end] = 1 / (end - first)
    return matrix


def elastic(images: Images, *, severity: int = 0, generator: torch.Generator) -> Images:
    """Stretch and shear as a whole, then bend locally.

    Lengths are meant for a shorter side of 224 pixels; for others they grow and shrink with it.

    Args:
        images: float32 in [0, 1].
        severity: 1 to 5; 0 draws one per image. The first two bend the image as a whole, the other
            three move neighbouring pixels apart.
        generator: on the images' device.

    Raises:
        ValueError: severity or the number of channels is none of those.
    """
    return at_severity(
        images, severity, _DEFORMATIONS, partial(deform, generator=generator), generator
    )


def deform(
    images: Images,
    strength: float,
    deviation: float,
    movement: float,
    *,
    generator: torch.Generator,
) -> Images:
    """Apply a random affine map and random displacements; strength and movement 0 change nothing.

    Args:
        images: float32 in [0, 1].
        strength: factor of the displacements, which are smoothed noise uniform on [-1, 1), in
            pixels of the reference size.
        deviation: of the Gaussian that smooths them.
        movement: the most by which each of three anchor points moves, down or across.
        generator: on the images' device.
    """
    count, _, height, width = images.shape
    scale = scale_of(images)
    moves = draw_uniform((count, 3, 2), -movement * scale, movement * scale, generator)
    noise = draw_uniform((count, 2, height, width), -1.0, 1.0, generator)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=images.device),
        torch.arange(width, device=images.device),
        indexing="ij",
    )
    places = torch.stack([rows, columns], dim=-1).float()
    if movement:
        images = _sample(images, _affine(places, moves, height, width), mirrored=True)
    if strength:
        shifts = smooth(noise, deviation * scale, truncate=3.0, border="reflect")
        # Noise that is smoothed over fewer pixels keeps more of its size.
        shifts *= strength * scale * noise_left(deviation) / noise_left(deviation * scale)
        images = _sample(images, places + shifts.permute(0, 2, 3, 1), mirrored=False)
    return images.clamp(0, 1)


def _affine(places: Tensor, moves: Tensor, height: int, width: int) -> Tensor:
    """Give the places from which the map takes each pixel that moves three anchors as drawn."""
    middle = torch.tensor([height // 2, width // 2], device=moves.device)
    third = max(1, min(height, width) // 3)
    corners = torch.tensor([[1, 1], [1, -1], [-1, -1]], device=moves.device) * third + middle
    after = functional.pad(corners + moves, (0, 1), value=1.0).double()
    back = torch.linalg.solve(after, corners.double().expand(len(moves), -1, -1)).float()
    extended = functional.pad(places, (0, 1), value=1.0)
    return torch.einsum("hwc,ncd->nhwd", extended, back)


def _sample(images: Images, places: Tensor, *, mirrored: bool) -> Images:
    """Interpolate between pixels at places given as row and column.

    Args:
        images: float32.
        places: batch x height x width x 2.
        mirrored: whether what lies outside mirrors at the outermost pixels, else at their edges.
    """
    sizes = torch.tensor(images.shape[-2:], device=images.device)
    at_corners, at_edges = 2 * places / (sizes - 1).clamp(min=1) - 1, (2 * places + 1) / sizes - 1
    return functional.grid_sample(
        images,
        (at_corners if mirrored else at_edges).flip(-1),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=mirrored,
    )
