"""A contact sheet: what every operation on images does to one picture, side by side."""

import inspect
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from components.tensors import Images

_SIDE, _COLUMNS = 160, 5
_GAP, _CAPTION, _TITLE = 6, 20, 44
_INK, _PAPER, _FAINT = (32, 36, 44), (250, 250, 247), (120, 124, 132)
_OVERSAMPLED = 4  # the drawn picture's edges are smoothed by drawing it so many times larger


def draw_contact_sheet(
    picture: Image.Image, operations: Mapping[str, Callable[..., Images]], *, seed: int = 0
) -> Image.Image:
    """Draw one row per operation: its five severities, or five draws if it has none.

    Args:
        picture: any; its central square is taken.
        operations: by name. Those without severities stand on the left, the others on the right.
        seed: of all draws; a row does not depend on which other rows there are.
    """
    square = ImageOps.fit(picture, (_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pixels = _to_tensor(square)
    blocks = [
        ({n: o for n, o in operations.items() if _has_severity(o) == severe}, word)
        for severe, word in ((False, "draw"), (True, "severity"))
    ]
    blocks = [(rows, word) for rows, word in blocks if rows]
    row_height, block_width = _SIDE + _CAPTION + _GAP, _COLUMNS * (_SIDE + _GAP)
    most = max((len(rows) for rows, _ in blocks), default=0)
    size = (
        4 * _GAP + max(1, len(blocks)) * (block_width + 4 * _GAP),
        _TITLE + _SIDE + _CAPTION + _GAP + most * row_height + 2 * _GAP,
    )
    sheet = Image.new("RGB", size, _PAPER)
    left = 4 * _GAP
    _place(sheet, square, (left, 2 * _GAP), "the picture as it is")
    for rows, word in blocks:
        top = 2 * _GAP + _SIDE + _CAPTION + _GAP + _TITLE
        for column in range(_COLUMNS):
            at = (left + column * (_SIDE + _GAP), top - _CAPTION)
            _write(sheet, at, f"{word} {column + 1}", _FAINT)
        for name, operation in rows.items():
            for column, image in enumerate(_row(pixels, name, operation, seed)):
                at = (left + column * (_SIDE + _GAP), top)
                _place(sheet, _to_picture(image), at, name if column == 0 else "")
            top += row_height
        left += block_width + 4 * _GAP
    return sheet


def read_picture(file: Path) -> Image.Image:
    """Read a picture of any format and kind as RGB, or as grey if it is.

    Raises:
        ValueError: it cannot be read as a picture.
    """
    try:
        with Image.open(file) as picture:
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("L" if upright.mode in ("1", "L") else "RGB")
    except OSError as error:
        if not file.is_file():
            raise ValueError(f"there is no file {file}") from error
        raise ValueError(f"{file} must be a picture, but Pillow cannot read it: {error}") from error


def draw_landscape(side: int = 4 * _SIDE) -> Image.Image:
    """Draw a small house in the hills: flat areas, edges, fine texture and every main colour."""
    whole = side * _OVERSAMPLED
    y, x = np.mgrid[0:whole, 0:whole] / whole
    sky = np.array([70, 130, 205]) + y[..., None] * np.array([240, 170, 55])
    picture = Image.fromarray(sky.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)

    def area(*corners: tuple[float, float], fill: tuple[int, int, int]) -> None:
        draw.polygon([(whole * across, whole * down) for across, down in corners], fill)

    def disc(across: float, down: float, radius: float, fill: tuple[int, int, int]) -> None:
        box = (across - radius, down - radius, across + radius, down + radius)
        draw.ellipse([whole * edge for edge in box], fill)

    disc(0.8, 0.18, 0.09, (255, 226, 92))
    for across, down, radius in ((0.2, 0.15, 0.06), (0.27, 0.13, 0.075), (0.35, 0.16, 0.055)):
        disc(across, down, radius, (246, 248, 252))
    area((0.0, 0.62), (0.22, 0.33), (0.47, 0.62), fill=(96, 108, 142))
    area((0.16, 0.41), (0.22, 0.33), (0.29, 0.41), (0.22, 0.39), fill=(236, 240, 246))
    area((0.3, 0.62), (0.62, 0.4), (1.0, 0.62), fill=(120, 128, 160))
    hill = 0.6 + 0.035 * np.sin(6 * x) + 0.012 * np.sin(29 * x)
    blades = 24 * np.sin(260 * x + 90 * y) * np.sin(190 * y - 60 * x)
    meadow = np.stack([74 + 60 * y + blades, 150 + 20 * y + blades, 62 + blades], 2)
    ground = np.where((y > hill)[..., None], meadow.clip(0, 255), np.asarray(picture))
    picture = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    area((0.36, 0.97), (0.46, 0.97), (0.475, 0.8), (0.45, 0.8), fill=(214, 190, 140))
    area((0.3, 0.55), (0.62, 0.55), (0.62, 0.8), (0.3, 0.8), fill=(240, 226, 196))
    area((0.26, 0.57), (0.46, 0.38), (0.66, 0.57), fill=(178, 48, 40))
    area((0.54, 0.4), (0.58, 0.4), (0.58, 0.49), (0.54, 0.49), fill=(120, 60, 50))
    area((0.43, 0.66), (0.5, 0.66), (0.5, 0.8), (0.43, 0.8), fill=(96, 62, 40))
    for across in (0.335, 0.54):
        area(*_box(across, 0.63, 0.055, 0.075), fill=(250, 250, 250))
        for right, down in ((0, 0), (0.03, 0), (0, 0.04), (0.03, 0.04)):
            area(*_box(across + right, 0.63 + down, 0.025, 0.035), fill=(46, 84, 130))
    area((0.81, 0.6), (0.84, 0.6), (0.845, 0.84), (0.805, 0.84), fill=(104, 70, 44))
    for across, down, radius in ((0.76, 0.56, 0.075), (0.88, 0.55, 0.08), (0.82, 0.46, 0.1)):
        disc(across, down, radius, (38, 104, 58))
    for number in range(11):
        disc(0.06 + 0.045 * math.sin(4 * number), 0.7 + 0.026 * number, 0.012, (232, 62, 140))
    return picture.resize((side, side), Image.Resampling.BOX)


def _box(left: float, top: float, width: float, height: float) -> list[tuple[float, float]]:
    right, bottom = left + width, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _row(pixels: Tensor, name: str, operation: Callable[..., Images], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
    if not _has_severity(operation):
        return operation(pixels.expand(_COLUMNS, -1, -1, -1).clone(), generator=generator)
    severities = range(1, _COLUMNS + 1)
    return torch.cat([operation(pixels, severity=s, generator=generator) for s in severities])


def _has_severity(operation: Callable[..., Images]) -> bool:
    return "severity" in inspect.signature(operation).parameters


def _place(sheet: Image.Image, picture: Image.Image, at: tuple[int, int], caption: str) -> None:
    sheet.paste(picture.convert("RGB"), at)
    if caption:
        _write(sheet, (at[0], at[1] + _SIDE + 2), caption, _INK)


def _write(sheet: Image.Image, at: tuple[int, int], text: str, ink: tuple[int, int, int]) -> None:
    ImageDraw.Draw(sheet).text(at, text, ink, font=ImageFont.load_default(14))


def _to_tensor(picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    return pixels.view(1, _SIDE, _SIDE, -1).permute(0, 3, 1, 2).contiguous()


def _to_picture(image: Tensor) -> Image.Image:
    pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2)
    return Image.fromarray(pixels.numpy())
