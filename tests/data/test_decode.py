"""Every kind of file becomes pixels by the stated rule, or is Broken with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from components.data.decode import MAX_PIXELS, Broken, Shaping, decode

COLOUR, GREY = Shaping(grey=False), Shaping(grey=True)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oversized():
    """A PNG whose header promises more pixels than anybody should decode."""
    whole = encoded(PIXELS)
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)  # fmt: skip
def test_lossless_kinds_give_their_pixels(kind, options):
    found = decode(encoded(PIXELS, kind, **options), COLOUR)
    assert np.array_equal(found.pixels, PIXELS) and not found.is_own_jpeg


def test_palettes_and_two_levels():
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[:2], colours[2:, 2:] = (200, 10, 30), (0, 0, 255)
    palette = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)
    for kind in ("PNG", "GIF"):
        assert np.array_equal(decode(encoded(palette, kind), COLOUR).pixels, colours)
    bits = Image.fromarray(np.eye(4, dtype=np.uint8) * 255).convert("1")
    assert np.array_equal(decode(encoded(bits), GREY).pixels[..., 0], np.eye(4) * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grey_is_divided_by_257(kind):
    deep = np.array([[0, 128, 129, 257], [385, 386, 65535, 32896]], np.uint16)
    found = decode(encoded(deep, kind), GREY).pixels[..., 0]
    assert np.array_equal(found, np.rint(deep / 257).astype(np.uint8))


def test_transparency_lies_on_black():
    alpha = np.full((6, 5, 1), 255, np.uint8)
    alpha[0], alpha[1] = 0, 51
    found = decode(encoded(np.concatenate([PIXELS, alpha], 2)), COLOUR).pixels
    assert np.array_equal(found[2:], PIXELS[2:]) and not found[0].any()
    assert np.abs(found[1] - PIXELS[1] * 0.2).max() <= 1
    keyed = Image.fromarray(PIXELS)
    content = encoded(keyed, transparency=tuple(PIXELS[0, 0].tolist()))
    assert not decode(content, COLOUR).pixels[0, 0].any()
    veiled = np.stack([PIXELS[..., 0], np.zeros((6, 5), np.uint8)], 2)
    assert not decode(encoded(Image.fromarray(veiled, "LA")), GREY).pixels.any()


def test_cmyk_is_converted():
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 1:3] = 255  # all magenta and all yellow are red
    content = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    found = decode(content, COLOUR)
    assert np.abs(found.pixels.astype(int) - (255, 0, 0)).max() <= 3 and not found.is_own_jpeg


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_images_are_turned_upright(orientation, kind):
    """An orientation says where the first row and column of the file belong in the picture."""
    scene = np.repeat(np.repeat(PIXELS[:3, :2], 8, 0), 8, 1)
    turns = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),  # the camera was turned right, so it is stored turned left
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](scene)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = decode(encoded(stored, kind, exif=exif, **options), COLOUR)
    assert found.pixels.shape == scene.shape
    assert np.abs(found.pixels.astype(int) - scene).max() <= (4 if kind == "JPEG" else 0)
    assert found.is_own_jpeg == (kind == "JPEG" and orientation == 1)


def test_jpegs_that_stay_as_they_are_are_told():
    content = encoded(PIXELS, "JPEG")
    assert decode(content, COLOUR).is_own_jpeg
    assert not decode(content, GREY).is_own_jpeg
    assert not decode(content, Shaping(grey=False, image_size=4)).is_own_jpeg
    assert decode(encoded(PIXELS[..., 0], "JPEG"), GREY).is_own_jpeg


def test_squashed_and_cropped():
    wide = Image.fromarray(RANDOM.integers(0, 256, (40, 100, 3), dtype=np.uint8))
    squashed = decode(encoded(wide), Shaping(grey=False, image_size=16)).pixels
    assert np.array_equal(squashed, wide.resize((16, 16), Image.Resampling.BILINEAR))
    smaller = np.asarray(wide.resize((50, 20), Image.Resampling.BILINEAR))
    shaping = Shaping(grey=False, image_size=16, shorter_side=20)
    assert np.array_equal(decode(encoded(wide), shaping).pixels, smaller[2:18, 17:33])
    uncut = Shaping(grey=False, image_size=16, shorter_side=20, cut=False)
    assert np.array_equal(decode(encoded(wide), uncut).pixels, smaller)


def animated(kind):
    frames = [Image.fromarray(frame) for frame in (PIXELS, PIXELS[::-1])]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def needle():
    return encoded(np.zeros((1, 2_000_000, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "shaping", "reason"),
    [
        (b"", COLOUR, "has no bytes"),
        (b"not an image", COLOUR, "is no readable image: none of PNG, JPEG"),
        (encoded(PIXELS)[:50], COLOUR, "is no readable image: "),
        (encoded(np.zeros((64, 64, 3), np.uint8), "JPEG")[:-20], COLOUR, "is no readable image: "),
        (oversized(), COLOUR, "is no readable image|is too large"),
        (animated("GIF"), COLOUR, "holds 2 pictures"),
        (animated("PNG"), COLOUR, "holds 2 pictures"),
        (animated("WEBP"), COLOUR, "holds 2 pictures"),
        (animated("TIFF"), COLOUR, "holds 2 pictures"),
        (encoded(np.zeros((4, 4), np.float32), "TIFF"), COLOUR, "has 32-bit pixels"),
        (encoded(PIXELS), Shaping(grey=False, min_side=6), "is too small: 5x6 pixels, min_side is"),
        (
            needle(),
            Shaping(grey=False, image_size=224, shorter_side=256),
            "is too narrow: 2000000x1 pixels become 512000000x256",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_rule_is_broken(content, shaping, reason):
    with pytest.raises(Broken, match=reason):
        decode(content, shaping)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_largest_image(monkeypatch):
    monkeypatch.setattr("components.data.decode.MAX_PIXELS", 30)
    assert decode(encoded(PIXELS), COLOUR).pixels.shape == (6, 5, 3)
    monkeypatch.setattr("components.data.decode.MAX_PIXELS", 29)
    with pytest.raises(Broken, match="is too large: 5x6 pixels are more than 29"):
        decode(encoded(PIXELS), COLOUR)
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def test_one_pixel_is_an_image():
    assert decode(encoded(PIXELS[:1, :1]), COLOUR).pixels.tolist() == PIXELS[:1, :1].tolist()
