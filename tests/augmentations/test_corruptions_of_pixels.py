"""Noise, colours, JPEG and large pixels against their formulas, OpenCV and Pillow."""

import colorsys
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from components.augmentations.corruptions import CORRUPTIONS
from components.augmentations.corruptions.colour import (
    add_brightness,
    scale_contrast,
    scale_saturation,
)
from components.augmentations.corruptions.digital import enlarge_pixels, save_as_jpeg
from components.augmentations.corruptions.noise import (
    add_impulse_noise,
    add_shot_noise,
    add_speckle_noise,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(*shape, seed=1):
    return torch.rand(shape, generator=generator(seed))


def levels(*shape):
    return (random_images(*shape) * 255).round() / 255


def hwc(image):
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("severity", "photons"), [*enumerate((60, 25, 12, 5, 3), start=1)])
def test_shot_noise_has_mean_and_variance_of_a_poisson_count(severity, photons):
    level, count = 0.1, 400_000
    images = torch.full((4, 1, 100, 1000), level)
    noisy = CORRUPTIONS["shot_noise"](images, severity=severity, generator=generator())
    assert torch.allclose(noisy * photons, (noisy * photons).round(), atol=1e-4)
    variance = level / photons
    assert float(noisy.mean()) == pytest.approx(level, abs=5 * (variance / count) ** 0.5)
    # Clipping at 1 cuts off what hardly ever happens.
    assert float(noisy.var()) == pytest.approx(variance, rel=0.03)


def test_shot_noise_fades_with_light():
    images = random_images(1, 3, 16, 16)
    assert (add_shot_noise(images, 1e7, generator=generator()) - images).abs().max() < 3e-3


@pytest.mark.parametrize(
    ("severity", "amount"), [*enumerate((0.03, 0.06, 0.09, 0.17, 0.27), start=1)]
)
def test_impulse_noise_hits_its_share_half_and_half(severity, amount):
    images = torch.full((4, 3, 200, 200), 0.5)
    noisy = CORRUPTIONS["impulse_noise"](images, severity=severity, generator=generator())
    deviation = (amount / 2 * (1 - amount / 2) / noisy.numel()) ** 0.5
    for level in (0.0, 1.0):
        hit = noisy == level
        assert float(hit.float().mean()) == pytest.approx(amount / 2, abs=5 * deviation)
    hit = noisy != 0.5
    together = float((hit[:, 0] & hit[:, 1]).float().mean())
    assert together == pytest.approx(amount**2, abs=5 * amount / len(noisy[:, 0].flatten()) ** 0.5)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}


def test_impulse_noise_can_hit_everything():
    noisy = add_impulse_noise(torch.full((1, 1, 30, 30), 0.5), 1.0, generator=generator())
    assert set(noisy.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("severity", "deviation"), [*enumerate((0.15, 0.2, 0.35, 0.45, 0.6), start=1)]
)
def test_speckle_noise_grows_with_the_value(severity, deviation):
    images = random_images(2, 3, 64, 64)
    noisy = CORRUPTIONS["speckle_noise"](images, severity=severity, generator=generator())
    drawn = torch.randn(images.shape, generator=generator())
    assert torch.allclose(noisy, (images + images * drawn * deviation).clamp(0, 1), atol=1e-6)
    level = torch.full((1, 1, 300, 300), 0.2)
    spread = add_speckle_noise(level, 0.2, generator=generator()).std()
    assert float(spread) == pytest.approx(0.2 * 0.2, rel=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_keeps_each_channels_mean(channels):
    images = random_images(3, channels, 20, 30)
    for severity, factor in enumerate((0.4, 0.3, 0.2, 0.1, 0.05), start=1):
        flat = CORRUPTIONS["contrast"](images, severity=severity, generator=generator())
        means = images.mean((2, 3), keepdim=True)
        assert torch.allclose(flat, (images - means) * factor + means, atol=1e-6)
        assert torch.allclose(flat.mean((2, 3)), images.mean((2, 3)), atol=1e-6)
    assert (scale_contrast(images, 0.0) - means).abs().max() < 1e-6


def through_hsv(image, change):
    hsv = cv2.cvtColor(hwc(image), cv2.COLOR_RGB2HSV)
    hsv[..., 1:] = np.clip(change(hsv)[..., 1:], 0, 1)
    return torch.from_numpy(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).permute(2, 0, 1)


@pytest.mark.parametrize("severity", range(1, 6))
def test_brightness_and_saturation_agree_with_opencv(severity):
    images = random_images(2, 3, 24, 32)
    brighter = CORRUPTIONS["brightness"](images, severity=severity, generator=generator())
    factor, amount = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    saturated = CORRUPTIONS["saturate"](images, severity=severity, generator=generator())
    for image, bright, saturate in zip(images, brighter, saturated, strict=True):
        expected = through_hsv(image, lambda hsv: hsv + np.array([0, 0, severity / 10]))
        assert torch.allclose(bright, expected, atol=1e-4)
        expected = through_hsv(image, lambda hsv: hsv * [1, factor, 1] + np.array([0, amount, 0]))
        assert torch.allclose(saturate, expected, atol=1e-4)


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.4, 0.4, 0.4), (0.2, 0, 0), (0, 1, 1)])
def test_brightness_and_saturation_of_extreme_colours(colour):
    pixel = torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    brighter = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3))
    assert add_brightness(pixel, 0.3).flatten().tolist() == pytest.approx(brighter, abs=1e-6)
    garish = colorsys.hsv_to_rgb(hue, min(1, saturation * 5 + 0.1), value)
    assert scale_saturation(pixel, 5.0, 0.1).flatten().tolist() == pytest.approx(garish, abs=1e-6)


def test_grey_images_get_brighter_but_have_no_colour():
    images = random_images(2, 1, 8, 8)
    assert torch.allclose(add_brightness(images, 0.2), (images + 0.2).clamp(max=1), atol=1e-6)
    assert torch.equal(scale_saturation(images, 20.0, 0.2), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("severity", "quality"), [*enumerate((25, 18, 15, 10, 7), start=1)])
def test_compression_is_pillows(channels, severity, quality):
    images = levels(2, channels, 24, 40)
    compressed = CORRUPTIONS["compress"](images, severity=severity, generator=generator())
    for image, result in zip(images, compressed, strict=True):
        pixels = (hwc(image) * 255).round().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(
            file, "JPEG", quality=quality
        )
        expected = np.asarray(Image.open(file)).reshape(24, 40, channels)
        assert np.array_equal((hwc(result) * 255).round(), expected)
        assert torch.equal((result * 255).round() / 255, result)


def test_the_best_jpeg_is_close():
    smooth = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    assert (save_as_jpeg(smooth, 100) - smooth).abs().max() < 0.02


@pytest.mark.parametrize(("severity", "factor"), [*enumerate((0.6, 0.5, 0.4, 0.3, 0.25), start=1)])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (50, 33), (3, 2)])
def test_pixelation_is_pillows(severity, factor, size):
    images = levels(1, 3, *size)
    blocks = CORRUPTIONS["pixelate"](images, severity=severity, generator=generator())
    small = tuple(max(1, int(side * factor)) for side in size)[::-1]
    for channel, result in zip(images[0], blocks[0], strict=True):
        picture = Image.fromarray(channel.numpy())
        shrunk = picture.resize(small, Image.Resampling.BOX)
        expected = np.asarray(shrunk.resize(size[::-1], Image.Resampling.BOX))
        assert np.abs(result.numpy() - expected).max() < 1e-5


def test_one_block_is_the_mean():
    images = random_images(1, 3, 9, 14)
    block = enlarge_pixels(images, 1e-9)
    assert torch.allclose(block, images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-6)
