"""Rain beside OpenCV's filters, from which it was published."""

import math

import cv2
import numpy as np
import pytest
import torch

from components.augmentations.rain import rain, streak_kernels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("angle", [-30.0, -10.0, 0.0, 17.0, 30.0])
def test_streaks_are_opencvs(angle):
    turn = cv2.getRotationMatrix2D((5, 5), angle - 45, 0.9)
    line = cv2.warpAffine(np.eye(10, dtype=np.float32), turn, (10, 10))
    expected = cv2.GaussianBlur(line, (3, 3), 0)
    found = streak_kernels(torch.tensor([angle]), 10)[0].numpy()
    assert np.abs(found - expected).max() < 0.02  # it reads between pixels in steps of 1/32


def test_streaks_slant_by_the_angle():
    """The direction in which brightness is most alike, from the structure tensor."""
    images = torch.zeros(40, 1, 224, 224)
    layers = rain(images, generator=generator())[:, 0]
    down, across = torch.gradient(layers, dim=(1, 2))
    products = [(one * two).mean((1, 2)) for one, two in ((down, down), (across, across))]
    mixed = (down * across).mean((1, 2))
    slant = 0.5 * torch.atan2(2 * mixed, products[1] - products[0]) * 180 / math.pi
    assert slant.abs().max() < 40
    assert slant.min() < -15 and slant.max() > 15
    assert abs(slant.median()) < 15


def test_rain_is_at_most_as_bright_as_drawn_and_darkens_what_is_white():
    """Over black it is β·r; over white 1 − r + β·r, so both together give β where r is 1."""
    black = rain(torch.zeros(60, 3, 64, 64), generator=generator())
    white = rain(torch.ones(60, 3, 64, 64), generator=generator())
    brightness = black.amax((1, 2, 3))
    allowed = torch.tensor([0.7 + 0.3 * step / 9 for step in range(10)])
    assert ((brightness.view(-1, 1) - allowed).abs().amin(1) < 1e-5).all()
    assert len((brightness * 30).round().unique()) == 10
    layer = black / brightness.view(-1, 1, 1, 1)
    assert torch.allclose(white, 1 - layer + black, atol=1e-5)
    assert (black == black[:, :1]).all()


def test_two_to_six_of_a_hundred_pixels_are_drops():
    """If a drop wets k pixels, (1 - share of drops) to the k-th stays dry, so logarithms tell."""
    layers = rain(torch.zeros(150, 1, 224, 224), generator=generator())
    dry = layers.le(0.02).double().mean((1, 2, 3)).log()
    shares = torch.tensor([drops / 25_600 for drops in (500, 700, 900, 1100, 1300, 1500)])
    expected = (1 - shares).log()
    assert 20 < dry.max() / expected[0] < 40
    assert 0.7 < (dry.min() / dry.max()) / (expected[-1] / expected[0]) < 1.4
