"""Every corruption keeps the contract that all share, and severities are what they say."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from components.augmentations.corruptions import CORRUPTIONS
from components.augmentations.corruptions.blurs import defocus, move, rush
from components.augmentations.corruptions.colour import (
    add_brightness,
    scale_contrast,
    scale_saturation,
)
from components.augmentations.corruptions.digital import deform, enlarge_pixels
from components.augmentations.corruptions.glass import see_through_glass
from components.augmentations.corruptions.noise import add_impulse_noise, add_speckle_noise
from components.augmentations.corruptions.spatter import add_spatter
from components.augmentations.corruptions.weather import add_fog, add_frost, add_snow

SHAPES = [(6, 3, 32, 32), (2, 1, 28, 28), (2, 3, 17, 40), (2, 1, 9, 5), (3, 3, 1, 1), (0, 3, 8, 8)]
INFINITE = float("inf")
# Each corruption at the strength that changes nothing.
WITHOUT_EFFECT = {
    "fog": lambda images, g: add_fog(images, 0.0, 2.0, generator=g),
    "impulse_noise": lambda images, g: add_impulse_noise(images, 0.0, generator=g),
    "speckle_noise": lambda images, g: add_speckle_noise(images, 0.0, generator=g),
    "glass_blur": lambda images, g: see_through_glass(images, 0.0, 0, 2, generator=g),
    "defocus_blur": lambda images, g: defocus(images, 0, 0.5),
    "motion_blur": lambda images, g: move(images, 0, 3.0, generator=g),
    "zoom_blur": lambda images, g: rush(images, (1.0,)),
    "frost": lambda images, g: add_frost(images, 1.0, 0.0, generator=g),
    "snow": lambda images, g: add_snow(images, 0.1, 0.3, 3, INFINITE, 10, 4.0, 1.0, generator=g),
    "water": lambda images, g: add_spatter(images, 0.6, 0.3, 4, 0.69, 0.0, "water", generator=g),
    "mud": lambda images, g: add_spatter(images, 0.6, 0.3, 1, INFINITE, 1.5, "mud", generator=g),
    "contrast": lambda images, g: scale_contrast(images, 1.0),
    "brightness": lambda images, g: add_brightness(images, 0.0),
    "saturate": lambda images, g: scale_saturation(images, 1.0, 0.0),
    "pixelate": lambda images, g: enlarge_pixels(images, 1.0),
    "elastic": lambda images, g: deform(images, 0.0, 2.0, 0.0, generator=g),
}
# Those whose strength grows with severity; frost, snow, spatter, saturate and elastic change kind.
GROWING = (
    *("shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "defocus_blur", "motion_blur"),
    *("zoom_blur", "contrast", "brightness", "compress", "pixelate"),
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(shape, seed=1):
    images = torch.rand(shape, generator=generator(seed))
    images.flatten()[::7] = 1.0
    images.flatten()[1::7] = 0.0
    return images


def photo(size=64, count=8):
    """A flower, square."""
    pixels = Image.fromarray(load_sample_image("flower.jpg")).crop((100, 0, 527, 427))
    small = np.array(pixels.resize((size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(small).permute(2, 0, 1).float().div(255).expand(count, -1, -1, -1)


def test_names_are_in_the_order_of_the_paper():
    assert list(CORRUPTIONS) == [
        *("fog", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "defocus_blur"),
        *("motion_blur", "zoom_blur", "frost", "snow", "spatter", "contrast", "brightness"),
        *("saturate", "compress", "pixelate", "elastic"),
    ]


@pytest.fixture(params=CORRUPTIONS)
def corrupt(request):
    return CORRUPTIONS[request.param]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("severity", [0, 1, 3, 5])
def test_shape_type_and_range_are_kept(corrupt, shape, severity):
    images = noise(shape)
    before = images.clone()
    corrupted = corrupt(images, severity=severity, generator=generator())
    assert corrupted.shape == images.shape and corrupted.dtype == torch.float32
    assert ((corrupted >= 0) & (corrupted <= 1)).all()
    assert torch.equal(images, before)
    assert corrupted.data_ptr() != images.data_ptr() or not images.numel()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_images_stay_images(corrupt, level):
    for channels in (1, 3):
        corrupted = corrupt(torch.full((5, channels, 12, 16), level), generator=generator())
        assert ((corrupted >= 0) & (corrupted <= 1)).all()


def test_the_generator_decides_everything(corrupt):
    images = noise((12, 3, 16, 16))
    torch.manual_seed(0)
    first = corrupt(images, generator=generator(3))
    before = torch.random.get_rng_state()
    again = corrupt(images, generator=generator(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, corrupt(images, generator=generator(4)))


def test_images_differ_in_what_is_drawn(corrupt):
    images = photo(16, 2)
    drawn = corrupt(images, severity=3, generator=generator())
    exact = ("defocus_blur", "zoom_blur", "contrast", "brightness", "saturate", "compress")
    same = corrupt.__name__ in (*exact, "pixelate")
    assert torch.equal(drawn[0], drawn[1]) == same


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_zero_strength_changes_nothing(name):
    for shape in ((3, 3, 20, 24), (2, 1, 7, 5)):
        images = noise(shape)
        assert torch.equal(WITHOUT_EFFECT[name](images, generator()), images)


def test_severity_zero_draws_each_of_five_alike():
    images = torch.full((5000, 3, 1, 1), 0.25)
    corrupted = CORRUPTIONS["brightness"](images, generator=generator())
    levels, counts = (corrupted[:, 0, 0, 0] * 1000).round().int().unique(return_counts=True)
    assert levels.tolist() == [350, 450, 550, 650, 750]
    # 5000 draws, variance 800: four standard deviations are 113.
    assert ((counts - 1000).abs() < 113).all()


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("size", [32, 96])
def test_higher_severities_change_more(name, size):
    images = photo(size)
    distances = [
        float((CORRUPTIONS[name](images, severity=s, generator=generator()) - images).abs().mean())
        for s in range(1, 6)
    ]
    assert distances == sorted(distances) and distances[0] > 0, distances


@pytest.mark.parametrize("name", ["fog", "frost", "snow", "elastic", "spatter", "saturate"])
def test_every_severity_changes_something(name):
    images = photo(48)
    for severity in range(1, 6):
        corrupted = CORRUPTIONS[name](images, severity=severity, generator=generator())
        assert (corrupted - images).abs().mean() > 1e-3


@pytest.mark.parametrize("severity", [-1, 6])
def test_unknown_severities_are_refused(corrupt, severity):
    with pytest.raises(ValueError, match=r"severity must be 0 \(drawn\) or 1 to 5, got"):
        corrupt(noise((1, 3, 4, 4)), severity=severity, generator=generator())


def test_other_channels_are_refused(corrupt):
    with pytest.raises(ValueError, match="images must have 1 or 3 channels, got 2"):
        corrupt(noise((1, 2, 4, 4)), generator=generator())


# The blocks of these two have so many pixels whatever the size.
@pytest.mark.parametrize("name", sorted(CORRUPTIONS.keys() - {"compress", "pixelate"}))
def test_an_image_keeps_its_look_at_another_size(name):
    """Lengths follow the size, so a photograph changes as much when it is half as large."""
    distances = []
    for size in (112, 224):
        images = photo(size, 10)
        corrupted = CORRUPTIONS[name](images, severity=3, generator=generator())
        distances.append(float((corrupted - images).abs().mean()))
    assert distances[0] == pytest.approx(distances[1], rel=0.5 if name == "spatter" else 0.25)
