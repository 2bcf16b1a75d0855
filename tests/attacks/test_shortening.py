"""shortened: the nearest point that fools, on the line to one that does or nearly does."""

import pytest
import torch

from components.attacks.losses import margin
from components.attacks.shortening import shortened

IMAGE, LABEL = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])


def boundary_at(pixel, one_pixel):
    return one_pixel(lambda x: x - pixel)


@pytest.mark.parametrize("found", [0.6, 0.65, 0.9, 1.0])
def test_from_beyond_the_boundary(found, one_pixel):
    nearest = shortened(boundary_at(0.6, one_pixel), IMAGE, torch.full_like(IMAGE, found), LABEL)
    assert 0.6 <= nearest.item() <= 0.6 + (found - 0.5) / 2**8 + 1e-6


@pytest.mark.parametrize(
    ("found", "reached"), [(0.599, True), (0.595, True), (0.57, True), (0.56, False), (0.4, False)]
)
def test_from_short_of_the_boundary(found, reached, one_pixel):
    nearest = shortened(boundary_at(0.6, one_pixel), IMAGE, torch.full_like(IMAGE, found), LABEL)
    if reached:
        assert 0.6 <= nearest.item() <= 0.6 + 1.5 * (found - 0.5) / 2**8 + 1e-6
    else:
        assert torch.equal(nearest, IMAGE)


def test_it_stays_in_the_box(one_pixel):
    nearest = shortened(boundary_at(1.05, one_pixel), IMAGE, torch.full_like(IMAGE, 0.98), LABEL)
    assert torch.equal(nearest, IMAGE)


def test_each_image_goes_its_own_way(lin400):
    """Distances along a random direction, against the exact crossing of the linear model."""
    model, images, labels = lin400
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(images.shape, generator=generator)
    ends = (images + 0.4 * directions).clamp(0, 1)
    nearest = shortened(model, images, ends, labels)
    fooled, start = margin(model(ends), labels) > 0, margin(model(images), labels) > 0
    assert fooled.sum() > 100
    assert bool((margin(model(nearest), labels)[fooled] > 0).all())
    shares = torch.linspace(0, 1, 2**8 + 1)[1:]
    points = torch.lerp(images[fooled][None], ends[fooled][None], shares.view(-1, 1, 1, 1, 1))
    leads = torch.stack([margin(model(each), labels[fooled]) for each in points])
    first = shares[(leads > 0).int().argmax(0)]
    moved = (nearest - images)[fooled].flatten(1).norm(dim=1)
    share = moved / (ends - images)[fooled].flatten(1).norm(dim=1)
    once = ~start[fooled] & ((leads > 0).int().diff(dim=0).abs().sum(0) <= 1)
    assert once.sum() > 50
    assert torch.allclose(share[once], first[once], atol=1e-4)


def test_confidence_is_kept(one_pixel):
    ends = torch.ones_like(IMAGE)
    nearest = shortened(boundary_at(0.6, one_pixel), IMAGE, ends, LABEL, confidence=0.2)
    assert 0.8 <= nearest.item() <= 0.81
