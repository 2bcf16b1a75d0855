"""Placement: angles, cuts and canvases beside torchvision's and torch's own."""

import collections

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from components.augmentations.placement import (
    horizontal_flip,
    random_cut,
    random_padding,
    rotate,
    turn,
    vertical_flip,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape):
    return torch.rand(shape, generator=generator(9))


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 28, 28), (3, 17, 40), (3, 2, 1)], ids=str)
def test_turning_equals_torchvisions_rotate(shape):
    angles = torch.tensor([-5.0, -2.5, -0.3, 0.0, 1.7, 5.0, 77.0, 33.0])
    images = noise(len(angles), *shape)
    turned = turn(images, angles)
    for image, angle, result in zip(images, angles, turned, strict=True):
        expected = reference.rotate(image, float(angle))
        # Where a place lies halfway between two pixels, rounding decides.
        assert (result != expected).double().mean() < 1e-3 or shape[-1] == 1


def test_angles_are_uniform_between_both_limits():
    """A mark far out on the horizontal axis of a strip rises by its distance times the sine."""
    images = torch.zeros(600, 1, 201, 201)
    images[:] = torch.linspace(0, 1, 201).view(-1, 1)  # brightness tells the row
    rows = rotate(images, generator=generator())[:, 0, 100, 190] * 200 - 100
    angles = torch.rad2deg(torch.asin(rows / 90))
    assert angles.abs().max() < 5.4 and angles.min() < -4.6 and angles.max() > 4.6
    assert abs(angles.mean()) < 5 * 2.9 / 600**0.5
    assert abs(angles.std() - 10 / 12**0.5) < 0.3


def test_no_angle_changes_nothing():
    images = noise(3, 3, 21, 34)
    assert torch.equal(rotate(images, degrees=0.0, generator=generator()), images)


def test_negative_angle():
    with pytest.raises(ValueError, match="degrees must be at least 0"):
        rotate(noise(1, 1, 2, 2), degrees=-1.0, generator=generator())


def test_flips():
    images = noise(2, 3, 5, 7)
    assert torch.equal(horizontal_flip(images, generator=generator()), images.flip(3))
    assert torch.equal(vertical_flip(images, generator=generator()), images.flip(2))


def ramps(count, height, width):
    """Brightness tells the row in one channel and the column in the other."""
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows, columns]).float().expand(count, -1, -1, -1) / 1000


def test_cuts_are_parts_of_the_image_at_any_place():
    sizes, tops = set(), set()
    for seed in range(80):
        images = ramps(4, 20, 30)
        cut = random_cut(images, stretch=False, generator=generator(seed))
        height, width = cut.shape[2:]
        fraction = round(height / 20, 1)
        assert (height, width) == (20 * fraction, 30 * fraction)
        sizes.add(fraction)
        corners = (cut[:, :, 0, 0] * 1000).round().int().tolist()
        for image, (top, left) in zip(cut, corners, strict=True):
            assert torch.equal(image, images[0, :, top : top + height, left : left + width])
        tops |= {(fraction, top) for top, _ in corners}
    assert sizes == {0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
    assert {top for fraction, top in tops if fraction == 0.9} == {0, 1, 2}


def test_stretched_cuts_have_the_old_size_and_a_fraction_each():
    images = ramps(300, 40, 40)
    cut = random_cut(images, generator=generator())
    # Inside a stretched ramp, brightness climbs more slowly by the fraction.
    slopes = (cut[:, 0, 30, 20] - cut[:, 0, 10, 20]) * 1000 / 20
    assert torch.allclose(slopes, (slopes * 10).round() / 10, atol=1e-3)
    assert set((slopes * 10).round().int().tolist()) == {4, 5, 6, 7, 8, 9}
    assert torch.allclose(slopes, (cut[:, 1, 20, 30] - cut[:, 1, 20, 10]) * 50, atol=1e-3)


def test_padding_pastes_a_smaller_image_on_grey_or_noise():
    """A dark image leaves its own outline on a canvas that is never as dark."""
    side, count, factors = 200, 200, collections.Counter()
    images = torch.full((count, 3, side, side), 0.004)
    padded = random_padding(images, generator=generator())
    plain = 0
    for image in padded:
        inside = (image - 0.004).abs().amax(0) < 1e-4
        rows = inside.sum(1).gt(side // 2).nonzero().flatten()
        columns = inside.sum(0).gt(side // 2).nonzero().flatten()
        height, width = (int(along[-1] - along[0]) + 1 for along in (rows, columns))
        assert height == width
        factors[height] += 1
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert int(rows[0]) <= side - height - 1 or rows[0] == 0
        outside = image[:, ~inside]
        plain += int(len(outside.unique()) == 1)
    scales = [0.65 + 0.3 * step / 9 for step in range(10)]
    assert factors.keys() == {int(side * scale + 1e-6) for scale in scales}
    assert abs(plain - count / 2) < 5 * (count / 4) ** 0.5


def test_the_pasted_image_is_the_bicubic_one():
    images = noise(1, 3, 40, 60)
    for seed in range(20):
        padded = random_padding(images, generator=generator(seed))[0]
        assert any(
            found for scale in range(10) for found in [pasted(images[0], padded, 0.65 + scale / 30)]
        )


def pasted(image, padded, factor):
    height, width = (int(side * factor + 1e-6) for side in image.shape[1:])
    small = reference.resize(image, [height, width], interpolation=3, antialias=True).clamp(0, 1)
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)
    return (windows - small.view(3, 1, 1, height, width)).abs().amax((0, 3, 4)).min() < 1e-5
