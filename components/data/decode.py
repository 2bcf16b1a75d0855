"""decode: encoded bytes -> pixels of one kind and size, by one rule; what has none is Broken."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

RULE = 1
"""Changes when the same bytes become other pixels, so that prepared data is not mistaken for it."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a gibibyte of colour

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


class Broken(ValueError):
    """Bytes that no rule turns into an image; the message completes "NAME ..."."""


class Decoded(NamedTuple):
    """An image as the model sees it.

    Attributes:
        pixels: uint8, height x width x channels.
        is_own_jpeg: whether these are exactly the pixels of the bytes, which are a JPEG.
    """

    pixels: NDArray[np.uint8]
    is_own_jpeg: bool


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """What images are brought to.

    Attributes:
        grey: one channel instead of three.
        image_size: height and width; 0 keeps the image's own.
        shorter_side: to which the image is brought before its middle is cut out; 0 squashes it.
        cut: whether the middle is cut out.
        min_side: images with a shorter side are broken.
    """

    grey: bool
    image_size: int = 0
    shorter_side: int = 0
    cut: bool = True
    min_side: int = 1


def decode(content: bytes, shaping: Shaping) -> Decoded:
    """Read an image upright, as 8-bit grey or colour, at its prepared size.

    The EXIF orientation is applied. Grey of 16 bits is divided by 257 and rounded, colour of 16
    bits keeps its high bytes; 32-bit values have no rule. Transparent images lie on black. CMYK,
    palettes and two levels are converted without colour profiles. Sizes are changed with
    antialiased bilinear interpolation.

    Raises:
        Broken: the bytes are no image, are truncated, hold several pictures, are too large or too
            small, or have a kind of pixels for which there is no rule.
    """
    if not content:
        raise Broken("has no bytes")
    try:
        image = _load(content, shaping.min_side)
        upright, turned = _turn_upright(image)
        plain = _plain(upright, shaping.grey)
    except Broken:
        raise
    except Exception as error:  # decoders raise whatever foreign bytes lead them to
        words = str(error).replace("\n", " ") or type(error).__name__
        raise Broken(f"is no readable image: {words}") from error
    shaped = _shape(plain, shaping)
    pixels = np.asarray(shaped)
    untouched = plain.mode == image.mode and shaped.size == image.size and not turned
    return Decoded(
        pixels.reshape(*pixels.shape[:2], -1), untouched and image.format in ("JPEG", "MPO")
    )


def decode_file(path: Path, shaping: Shaping) -> NDArray[np.uint8]:
    """Read an image file as `decode` does its bytes.

    Raises:
        ValueError: the file is broken; the message names it.
    """
    try:
        return decode(path.read_bytes(), shaping).pixels
    except Broken as broken:
        raise ValueError(f"{path} {broken}") from broken


def _load(content: bytes, min_side: int) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Broken(f"is no readable image: none of {', '.join(FORMATS)}") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Broken(f"is too large: {width}x{height} pixels are more than {MAX_PIXELS}")
    if min(width, height) < min_side:
        raise Broken(f"is too small: {width}x{height} pixels, min_side is {min_side}")
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1 and image.format != "MPO":  # a camera's JPEG with its preview behind it
        raise Broken(f"holds {pictures} pictures")
    image.load()
    return image


def _turn_upright(image: Image.Image) -> tuple[Image.Image, bool]:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # readable pixels with an unreadable note; the pixels count
        return image, False
    if orientation not in _UPRIGHT:
        return image, False
    return image.transpose(_UPRIGHT[orientation]), True


def _plain(image: Image.Image, grey: bool) -> Image.Image:
    if image.mode in _DEEP:
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Broken("has 32-bit pixels, for which there is no rule")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def _shape(image: Image.Image, shaping: Shaping) -> Image.Image:
    size = shaping.image_size
    if not size:
        return image
    if not shaping.shorter_side:
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = shaping.shorter_side / min(image.size)
    width, height = (max(shaping.shorter_side, round(side * scale)) for side in image.size)
    if width * height > MAX_PIXELS:
        raise Broken(f"is too narrow: {image.width}x{image.height} pixels become {width}x{height}")
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if not shaping.cut:
        return image
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
