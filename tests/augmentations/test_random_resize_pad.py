"""Random resize-pad as an augmentation: the defence's draws, but for each image."""

import collections

import pytest
import torch
from torch.nn import functional

from components.augmentations.random_resize_pad import random_resize_pad


def augmented(images, seed=0, **options):
    draws = torch.Generator().manual_seed(seed)
    return random_resize_pad(images, torch.ones(len(images), 1), **options, generator=draws)[0]


def test_sizes_are_uniform_and_every_offset_that_fits_occurs():
    count = 4000
    lit = augmented(torch.ones(count, 1, 8, 8), min_size=0.5)[:, 0] > 0
    for along in (lit.any(2), lit.any(1)):
        sizes, starts = along.sum(1), along.int().argmax(1)
        for size in range(4, 9):
            chosen = starts[sizes == size]
            assert abs(len(chosen) - count / 5) < 5 * (count * 0.16) ** 0.5
            found = collections.Counter(chosen.tolist())
            assert found.keys() == set(range(9 - size))
            expected = count / 5 / (9 - size)
            assert all(abs(n - expected) < 5 * expected**0.5 for n in found.values())


def test_each_image_is_torchs_nearest_resize_on_black():
    images = torch.rand(30, 3, 40, 27, generator=torch.Generator().manual_seed(1)) + 0.01
    for image, found in zip(images, augmented(images, min_size=0.6), strict=True):
        lit = found[0] > 0
        rows, columns = lit.any(1).nonzero().flatten(), lit.any(0).nonzero().flatten()
        size = (len(rows), len(columns))
        small = functional.interpolate(image[None], size, mode="nearest")[0]
        left, top = int(columns[0]), int(rows[0])
        pads = (left, 27 - left - size[1], top, 40 - top - size[0])
        assert torch.equal(found, functional.pad(small, pads))


@pytest.mark.parametrize("min_size", [0.0, 1.01, float("nan")])
def test_wrong_size(min_size):
    with pytest.raises(ValueError, match="min_size must be above 0 and at most 1"):
        augmented(torch.ones(1, 1, 2, 2), min_size=min_size)
