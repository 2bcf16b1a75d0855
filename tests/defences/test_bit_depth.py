"""Bit depth: the published levels, and gradients that pass straight through."""

import pytest
import torch
from torch import nn

from components.defences.bit_depth import BitDepth
from components.defences.defended import honest_view


def coarse(pixels, **options):
    return BitDepth(nn.Flatten(), **options)(torch.tensor(pixels).view(1, 1, 1, -1))[0].tolist()


def test_published_levels():
    """floor(64 x) / 64; white stays white."""
    assert coarse([0.0, 1 / 255, 0.5, 0.51, 254 / 255, 1.0]) == [0, 0, 0.5, 32 / 64, 63 / 64, 1]


def test_nearest_of_the_levels_from_black_to_white():
    assert coarse([0.0, 0.1, 0.17, 0.5, 0.84, 1.0], bits=2, rounding="nearest") == pytest.approx(
        [0, 0, 1 / 3, 2 / 3, 1, 1]
    )


def test_eight_bits_and_nearest_keep_what_files_hold():
    pixels = torch.arange(256) / 255
    assert coarse(pixels.tolist(), bits=8, rounding="nearest") == pixels.tolist()


@pytest.mark.parametrize(("bits", "levels"), [(1, 3), (3, 9), (6, 65)])
def test_number_of_levels(bits, levels):
    seen = set(coarse(torch.linspace(0, 1, 10_001).tolist(), bits=bits))
    assert len(seen) == levels


def test_gradient_is_that_of_the_model_at_the_coarse_image(lin400):
    """The true one is 0, and would stop whoever believes it."""
    images = lin400.images[:20].clone().requires_grad_(True)
    defended = BitDepth(nn.Sequential(lin400.model, nn.Softmax(1)), bits=3)
    bare = torch.floor(lin400.images[:20] * 8).div(8).requires_grad_(True)
    (expected,) = torch.autograd.grad(defended.inner(bare)[:, 0].sum(), bare)
    for classify in (defended, honest_view(defended)):
        (gradient,) = torch.autograd.grad(classify(images)[:, 0].sum(), images)
        assert torch.equal(gradient, expected) and gradient.any()


@pytest.mark.parametrize("bits", [0, 9])
def test_wrong_bits(bits):
    with pytest.raises(ValueError, match=f"bits must be from 1 to 8, got {bits}"):
        BitDepth(nn.Flatten(), bits=bits)
