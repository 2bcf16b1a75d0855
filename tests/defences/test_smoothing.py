"""Smoothing: each filter against a sum written out, and the published quirks."""

import statistics

import pytest
import torch
from torch import nn

from components.defences.defended import honest_view
from components.defences.smoothing import Smoothing

IMAGES = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def smooth(images, **options):
    return Smoothing(nn.Identity(), **options)._smooth(images)


def by_hand(image, size, combine):
    """Combine what is around each pixel, black beyond the edges."""
    height, width = len(image), len(image[0])
    reach = range(-(size // 2), size // 2 + 1)

    def pixel(row, column):
        inside = 0 <= row < height and 0 <= column < width
        return image[row][column] if inside else 0.0

    return [
        [combine([(pixel(r + i, c + j), i, j) for i in reach for j in reach]) for c in range(width)]
        for r in range(height)
    ]


def weighted(weight):
    def combine(around):
        total = sum(weight(i, j) for _, i, j in around)
        return sum(value * weight(i, j) for value, i, j in around) / total

    return combine


def gaussian(sigma):
    return weighted(lambda i, j: torch.tensor(-(i * i + j * j) / (2 * sigma**2)).exp().item())


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(
    ("options", "combine"),
    [
        ({"filter": "mean"}, weighted(lambda i, j: 1)),
        ({"filter": "gaussian", "sigma": 2.0}, gaussian(2.0)),
        ({"filter": "gaussian", "published_sigma": True}, gaussian(0.5**0.5)),
        ({"filter": "gaussian", "published_sigma": True, "sigma": 9.0}, gaussian(0.5**0.5)),
        ({"filter": "median"}, lambda around: statistics.median(value for value, _, _ in around)),
    ],
    ids=["mean", "gaussian", "published", "published-sigma", "median"],
)
def test_against_sums_written_out(options, combine, size):
    found = smooth(IMAGES, size=size, **options)
    for image, filtered in zip(IMAGES.flatten(0, 1), found.flatten(0, 1), strict=True):
        expected = torch.tensor(by_hand(image.tolist(), size, combine))
        assert (filtered - expected).abs().max() < 1e-5


def test_passes_follow_each_other():
    assert torch.allclose(smooth(IMAGES, passes=3), smooth(smooth(smooth(IMAGES))), atol=1e-6)


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_edges_that_continue_keep_a_grey_image(padding):
    grey = torch.full((1, 2, 5, 5), 0.3)
    assert torch.allclose(smooth(grey, padding=padding, size=5), grey)
    assert smooth(grey, padding="zeros", size=5)[0, 0, 0, 0] == pytest.approx(0.3 * 9 / 25)


def test_published_backward_is_the_identity_and_the_honest_view_is_not_fooled():
    defended = Smoothing(nn.Flatten(), backward="identity")
    weights = torch.rand(IMAGES[0].numel(), generator=torch.Generator().manual_seed(1))
    found = []
    for classify in (defended, honest_view(defended), Smoothing(nn.Flatten())):
        images = IMAGES.clone().requires_grad_(True)
        found += torch.autograd.grad((classify(images) * weights).sum(), images)
    naive, honest, true = found
    assert torch.equal(naive, weights.view(1, 3, 6, 5).expand_as(naive))
    assert torch.equal(honest, true)
    # The mean filter is symmetric, so it is its own transpose.
    assert torch.allclose(true, smooth(weights.view(1, 3, 6, 5)).expand_as(true), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("filter", ["mean", "gaussian"])
def test_black_and_white_pixels_have_a_gradient(value, padding, size, filter):
    """Just that of the filter, also where a mean of white pixels is rounded up."""
    defended = Smoothing(nn.Flatten(), filter=filter, size=size, padding=padding)
    images = torch.full((1, 1, 9, 9), value, requires_grad=True)
    weights = torch.rand(81, generator=torch.Generator().manual_seed(1))
    found, expected = (
        torch.autograd.grad((classify(images).flatten() * weights).sum(), images)[0]
        for classify in (honest_view(defended), defended._filter)
    )
    assert torch.equal(found, expected) and bool((found > 0).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 4}, "size must be odd and at least 3, got 4"),
        ({"size": 1}, "size must be odd and at least 3, got 1"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"filter": "gaussian", "sigma": 0.0}, "sigma must be finite and above 0, got 0.0"),
        ({"sigma": 2.0}, "a mean filter has no sigma"),
        ({"filter": "median", "published_sigma": True}, "a median filter has no sigma"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Smoothing(nn.Flatten(), **options)
