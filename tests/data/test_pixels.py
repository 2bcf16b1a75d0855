"""Rows decode to the pixels that Pillow finds, whatever kind of JPEG they are; crops fit."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from components.data.crops import central_crop, random_resized_crop
from components.data.index import DamagedShard
from components.data.pixels import channels_first, pixels_of


def photo(height, width, channels=3, seed=0):
    """Smooth colours with some noise, which no encoder finds too easy."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 6, channels), np.uint8)
    image = Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(image).reshape(height, width, channels) + random.normal(
        0, 8, (height, width, channels)
    )
    return noisy.clip(0, 255).astype(np.uint8)


def encoded(pixels, kind, **options):
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
        content, kind, **options
    )
    return content.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (61, 47), (224, 301)])
def test_jpeg_gives_what_pillow_gives(subsampling, quality, progressive, shape):
    options = {"subsampling": subsampling, "quality": quality, "progressive": progressive}
    content = encoded(photo(*shape), "JPEG", **options)
    found = pixels_of(content, encoding="jpeg", height=shape[0], width=shape[1], channels=3)
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_and_colour(channels, kind):
    content = encoded(photo(20, 30, channels), kind)
    found = pixels_of(content, encoding="jpeg", height=20, width=30, channels=channels)
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(20, 30, channels)
    assert np.array_equal(found, expected)


def test_a_camera_that_was_turned_is_not_turned_back():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(photo(20, 30), "JPEG", exif=exif)
    found = pixels_of(content, encoding="jpeg", height=20, width=30, channels=3)
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(content))))


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
@pytest.mark.parametrize(
    "content", [b"", b"neither one nor the other", encoded(photo(4, 4), "PNG")]
)
def test_bytes_that_are_no_such_image(encoding, content):
    with pytest.raises(DamagedShard, match=r"cannot have the shape|holds"):
        pixels_of(content, encoding=encoding, height=5, width=5, channels=3)


def test_the_middle():
    pixels = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
    assert np.array_equal(central_crop(pixels, 3, 5), pixels[2:5, 2:7])
    assert central_crop(pixels, 7, 9) is not None
    with pytest.raises(ValueError, match="7 x 9 pixels is too small to cut 8 x 9"):
        central_crop(pixels, 8, 9)


def test_a_random_crop_is_a_resized_box():
    """Of a picture whose colours say where they are, the corners say which box was cut."""
    down, across = np.mgrid[0:200, 0:240]
    pixels = np.stack([down, across, np.zeros_like(down)], 2).astype(np.uint8)
    areas, tops = [], []
    for seed in range(300):
        crop = random_resized_crop(pixels, 32, 32, np.random.default_rng(seed))
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
        rows, columns = crop[:, 16, 0].astype(int), crop[16, :, 1].astype(int)
        assert (np.diff(rows) >= 0).all() and (np.diff(columns) >= 0).all()
        height, width = (rows[-1] - rows[0]) * 32 / 31, (columns[-1] - columns[0]) * 32 / 31
        areas.append(height * width / (200 * 240))
        tops.append(rows[0])
        assert 0.6 < width / height < 1.6
    # Uniform from 0.08 to 1, but for the boxes that do not fit.
    assert min(areas) > 0.06 and max(areas) < 1.05 and 0.42 < np.mean(areas) < 0.56
    assert min(tops) < 5 and max(tops) > 80


def test_resizing_is_that_of_torch_in_floating_point():
    """A square of which no smaller part may be taken is taken whole whenever the ratio is one."""
    pixels = photo(64, 64)
    crop = random_resized_crop(pixels, 40, 40, OnlyMiddles(), smallest_area=1.0)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(whole, (40, 40), mode="bilinear", antialias=True)[0]
    assert (torch.from_numpy(crop).permute(2, 0, 1) - expected).abs().max() <= 1


class OnlyMiddles:
    """Chance that always takes the middle."""

    def uniform(self, low, high):
        return (low + high) / 2

    def integers(self, below):
        return below // 2

    def random(self):
        return 0.5


def test_mirroring_changes_sides_and_nothing_else():
    pixels, sides = photo(30, 30), []
    for seed in range(200):
        plain = random_resized_crop(pixels, 16, 16, np.random.default_rng(seed))
        maybe = random_resized_crop(pixels, 16, 16, np.random.default_rng(seed), mirrored=0.3)
        sides.append(not np.array_equal(maybe, plain))
        assert np.array_equal(maybe[:, ::-1] if sides[-1] else maybe, plain)
    # 60 expected, with a deviation of 6.5.
    assert 34 < sum(sides) < 86


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_is_a_transposition(channels):
    pixels, target = photo(5, 7, channels), np.empty((channels, 5, 7), np.uint8)
    for image in (pixels, pixels[:, ::-1]):
        channels_first(image, target)
        assert np.array_equal(target, image.transpose(2, 0, 1))


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=r"smallest_area must be above 0 and at most 1"):
        random_resized_crop(photo(8, 8), 4, 4, np.random.default_rng(0), smallest_area=share)
