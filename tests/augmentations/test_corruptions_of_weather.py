"""Fog, frost, snow and spatter against their formulas, with what was drawn drawn again."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from components.augmentations.corruptions.frost_textures import grow_frost
from components.augmentations.corruptions.plasma import plasma
from components.augmentations.corruptions.spatter import add_spatter, spatter
from components.augmentations.corruptions.weather import add_fog, add_frost, add_snow, frost

WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(*shape, seed=1):
    return torch.rand(shape, generator=generator(seed))


def hwc(image):
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def test_plasma_is_diamond_square_pixel_by_pixel():
    side, decay = 16, 1.7
    drawn, grid, step, displacement = generator(), np.zeros((side, side)), side, 100.0
    while step > 1:
        half, few = step // 2, side // step
        noise = torch.rand((3, 1, 1, few, few), generator=drawn) * 2 - 1
        noise = noise[:, 0, 0].double().numpy() * displacement**2
        for row in range(few):
            for column in range(few):
                y, x = row * step, column * step
                corners = [
                    grid[(y + a) % side, (x + b) % side] for a in (0, step) for b in (0, step)
                ]
                grid[y + half, x + half] = np.mean(corners) + noise[0, row, column]
        for row in range(few):
            for column in range(few):
                for kind, (y, x) in enumerate([(0, half), (half, 0)], start=1):
                    y, x = row * step + y, column * step + x
                    around = [(y - half, x), (y + half, x), (y, x - half), (y, x + half)]
                    mean = np.mean([grid[a % side, b % side] for a, b in around])
                    grid[y, x] = mean + noise[kind, row, column]
        step, displacement = half, displacement / decay
    grid = (grid - grid.min()) / (grid.max() - grid.min())
    found = plasma(1, 16, 11, decay, generator=generator())
    assert found.shape == (1, 1, 16, 11)
    assert np.abs(found[0, 0].numpy() - grid[:, :11]).max() < 1e-5


@pytest.mark.parametrize(("height", "width", "side"), [(224, 224, 256), (3, 33, 64), (1, 1, 1)])
def test_plasma_fills_its_square_from_0_to_1(height, width, side):
    whole = plasma(3, side, side, 2.0, generator=generator())
    assert torch.equal(
        plasma(3, height, width, 2.0, generator=generator()), whole[..., :height, :width]
    )
    if side > 1:
        assert torch.equal(whole.amin((1, 2, 3)), torch.zeros(3))
        assert torch.allclose(whole.amax((1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize("channels", [1, 3])
def test_fog_follows_its_formula(channels):
    images = 0.8 * random_images(2, channels, 20, 28)
    clouds = plasma(2, 20, 28, 1.5, generator=generator())
    brightest = images.amax((1, 2, 3), keepdim=True)
    expected = (images + 2.5 * clouds) * brightest / (brightest + 2.5)
    found = add_fog(images, 2.5, 1.5, generator=generator())
    assert torch.allclose(found, expected, atol=1e-6)
    assert (found <= brightest).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_frost_is_a_weighted_sum(channels):
    images = random_images(2, channels, 24, 32)
    ice = grow_frost(2, 24, 32, generator=generator())
    if channels == 1:
        ice = (ice * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    found = add_frost(images, 0.7, 0.7, generator=generator())
    assert torch.allclose(found, (0.7 * images + 0.7 * ice).clamp(0, 1), atol=1e-6)


def test_frost_is_cold_bright_and_has_detail():
    ice = grow_frost(8, 96, 96, generator=generator())
    red, green, blue = ice.mean((0, 2, 3)).tolist()
    assert 0.25 < red < green < blue < 0.8
    assert ice.amax() > 0.9 and float(ice.std()) > 0.12
    assert not torch.equal(ice[0], ice[1])


def test_frost_can_come_from_pictures(tmp_path):
    colours = {"a.png": (200, 220, 240), "b.png": (100, 120, 140)}
    for name, colour in colours.items():
        Image.new("RGB", (300, 260), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    images = torch.zeros(40, 3, 16, 48)
    found = frost(images, severity=1, textures=str(tmp_path), generator=generator())
    seen = {tuple((image[:, 0, 0] / 0.4 * 255).round().int().tolist()) for image in found}
    assert seen == set(colours.values())
    assert torch.allclose(found, found[:, :, :1, :1].expand_as(found), atol=1e-6)


def test_frost_is_cut_from_pictures_at_random_places(tmp_path):
    across = np.tile(np.linspace(0, 255, 500).astype(np.uint8), (300, 1))
    Image.fromarray(across).save(tmp_path / "ramp.png")
    found = add_frost(
        torch.zeros(60, 3, 224, 224), 0.0, 1.0, textures=str(tmp_path), generator=generator()
    )
    left = found[:, 0, 0, 0] * 500
    assert left.min() < 30 and left.max() > 246 and left.max() < 278
    # The picture is meant for 224 pixels, so a smaller image shows as much of it.
    small = add_frost(
        torch.zeros(4, 3, 28, 28), 0.0, 1.0, textures=str(tmp_path), generator=generator()
    )
    shown = small[:, 0, 0, -1] - small[:, 0, 0, 0]
    assert torch.allclose(shown, torch.full((4,), 216 / 500), atol=0.03)


@pytest.mark.parametrize("folder", ["missing", "."])
def test_a_folder_without_pictures_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="textures must be a folder with pictures of frost"):
        frost(torch.zeros(1, 3, 4, 4), textures=str(tmp_path / folder), generator=generator())


def test_snow_whitens_the_scene():
    images = random_images(1, 3, 224, 224)
    found = add_snow(images, 0.1, 0.3, 3, float("inf"), 10, 4, 0.7, generator=generator())
    pixels = hwc(images[0])
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None] * 1.5 + 0.5
    expected = np.clip(0.7 * pixels + 0.3 * np.maximum(pixels, gray), 0, 1)
    assert np.abs(hwc(found[0]) - expected).max() < 1e-5


def test_snow_falls_down_and_is_the_same_upside_down():
    dark = torch.zeros(20, 1, 224, 224)
    found = add_snow(dark, 0.1, 0.3, 3, 0.5, 10, 4.0, 1.0, generator=generator())
    assert torch.allclose(found, found.rot90(2, (2, 3)), atol=1e-6)
    down = (found[:, :, 6:] - found[:, :, :-6]).square().mean()
    across = (found[..., 6:] - found[..., :-6]).square().mean()
    assert down < 0.8 * across


def liquid(images, mean, deviation, size):
    noise = torch.randn((len(images), 1, *images.shape[2:]), generator=generator())
    layers = noise[:, 0].double().numpy() * deviation
    return [ndimage.gaussian_filter(layer, size, mode="nearest") + mean for layer in layers]


@pytest.mark.parametrize(("size", "threshold", "strength"), [(4, 0.69, 0.6), (2, 0.68, 0.5)])
def test_water_follows_its_recipe(size, threshold, strength):
    images = random_images(2, 3, 224, 240)
    found = add_spatter(
        images, 0.65, 0.3, size, threshold, strength, "water", generator=generator()
    )
    for image, layer, wet in zip(images, liquid(images, 0.65, 0.3, size), found, strict=True):
        layer[layer < threshold] = 0
        edges = cv2.Canny((layer * 255).astype(np.uint8), 50, 150)
        away = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
        away = cv2.threshold(away, 20, 20, cv2.THRESH_TRUNC)[1]
        shade = cv2.equalizeHist(cv2.blur(away, (3, 3)).astype(np.uint8))
        emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
        shade = cv2.blur(cv2.filter2D(shade, cv2.CV_8U, emboss), (3, 3)).astype(np.float32)
        mask = layer * shade
        mask = mask / mask.max() * strength
        expected = np.clip(hwc(image) + mask[..., None] * WATER, 0, 1)
        # Where rounding moves a level of the layer, an edge may lie a pixel further.
        assert (np.abs(hwc(wet) - expected) > 1e-3).mean() < 0.01
        assert 0.001 < np.abs(hwc(wet) - hwc(image)).mean() < 0.1


def test_mud_follows_its_recipe():
    images = random_images(2, 3, 224, 230)
    found = add_spatter(images, 0.65, 0.3, 1, 0.65, 1.5, "mud", generator=generator())
    for image, layer, muddy in zip(images, liquid(images, 0.65, 0.3, 1), found, strict=True):
        mask = ndimage.gaussian_filter((layer > 0.65).astype(float), 1.5, mode="nearest")
        mask[mask < 0.8] = 0
        expected = hwc(image) * (1 - mask[..., None]) + mask[..., None] * MUD
        assert (np.abs(hwc(muddy) - expected) > 1e-5).mean() < 1e-3


def test_published_water_is_a_negative():
    """An untouched level k becomes -k, modulo 256."""
    ramp = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(3, 3, -1, -1)
    untouched = add_spatter(
        ramp, 0.65, 0.3, 4, 0.69, 0.0, "water", negative=True, generator=generator()
    )
    expected = (256 - torch.arange(256)) % 256
    for channel in untouched.flatten(0, 1):
        assert torch.equal((channel.flatten() * 255).round().long(), expected)
    for severity, wrong in ((1, True), (4, False)):
        plain = spatter(ramp, severity=severity, generator=generator())
        published = spatter(ramp, severity=severity, negative=True, generator=generator())
        assert torch.equal(plain, published) != wrong
        assert (plain - ramp).abs().mean() < 0.1


@pytest.mark.parametrize("severity", range(1, 6))
def test_drops_cover_as_much_of_a_small_image(severity):
    shares = []
    for size, count in ((224, 10), (32, 200)):
        dry = torch.full((count, 3, size, size), 0.5)
        wet = spatter(dry, severity=severity, generator=generator())
        shares.append(float(((wet - dry).abs() > 0.02).any(1).float().mean()))
    assert shares[1] == pytest.approx(shares[0], rel=1.0)
