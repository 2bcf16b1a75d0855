"""Shuffles: pixels only change places, and how far is known."""

import collections
import itertools

import pytest
import torch

from components.augmentations.shuffles import block_shuffle, extend, local_shuffle, rgb_shuffle


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def places(height, width, count):
    """Images whose pixels hold their own place: row in the first channel, column in the second."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows * 0]).float().expand(count, -1, -1, -1) / 1024


def sources(shuffled):
    """Tell for each pixel which row and column it came from."""
    return (shuffled[:, :2] * 1024).round().long().unbind(1)


def test_all_orders_of_channels_occur_alike():
    images = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(1200, -1, 4, 5)
    shuffled = rgb_shuffle(images, generator=generator())
    assert (shuffled == shuffled[:, :, :1, :1]).all()
    found = collections.Counter(map(tuple, shuffled[:, :, 0, 0].mul(10).round().int().tolist()))
    assert found.keys() == set(itertools.permutations((1, 2, 3)))
    assert all(abs(n - 200) < 5 * (1200 * 5 / 36) ** 0.5 for n in found.values())


def test_grey_has_no_channels_to_shuffle():
    images = torch.rand(5, 1, 4, 4, generator=generator())
    assert torch.equal(rgb_shuffle(images, generator=generator()), images)


@pytest.mark.parametrize(("height", "width"), [(50, 80), (28, 28), (3, 2), (1, 1)])
def test_block_shuffle_shifts_rows_or_columns_around(height, width):
    fractions = [0.4 + 0.2 * step / 9 for step in range(10)]
    images = places(height, width, 400)
    shuffled = block_shuffle(images, generator=generator())
    cuts = collections.Counter()
    for image, row, column in zip(shuffled, *sources(shuffled), strict=True):
        down, across = int(row[0, 0]), int(column[0, 0])
        assert torch.equal(image, images[0].roll((-down, -across), (1, 2)))
        assert down == 0 or across == 0
        cuts[("down", down) if down else ("across", across)] += 1
    allowed = {("down", int(f * height + 1e-4)) for f in fractions}
    allowed |= {("across", int(f * width + 1e-4)) for f in fractions}
    allowed |= {("across", 0)}  # a cut before the first pixel
    assert cuts.keys() <= allowed
    if min(height, width) >= 28:
        assert len(cuts) == len({cut for cut in allowed if cut[1]})


@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (120, 200), (32, 32), (9, 4), (2, 2), (1, 1)]
)
def test_local_shuffle_puts_patches_where_others_were(height, width):
    """By brute force: cut the patches, find each where it must lie, later ones on top."""
    images = places(height, width, 40)
    shuffled = local_shuffle(images, generator=generator())
    scale = min(height, width) / 224
    allowed = {max(1, round(int(80 + 20 * step / 19) * scale)) for step in range(20)}
    sides = set()
    for row, column in zip(*sources(shuffled), strict=True):
        fitting = [side for side in allowed if explains(row, column, side)]
        assert fitting
        sides |= set(fitting)
    assert sides == allowed or len(sides) >= 0.6 * len(allowed)


def starts(length, side):
    regular = list(range(0, length - side + 1, side))
    return regular if regular[-1] == length - side else [*regular, length - side]


def explains(row, column, side):
    """Tell whether the picture is made of patches of this side, each used at most once."""
    grid = list(itertools.product(starts(row.shape[0], side), starts(row.shape[1], side)))
    used = []
    for position, (top, left) in enumerate(grid):
        later = torch.zeros_like(row, dtype=torch.bool)
        for below, right in grid[position + 1 :]:
            later[below : below + side, right : right + side] = True
        window = (slice(top, top + side), slice(left, left + side))
        seen = ~later[window]
        down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        origins = {
            *zip(
                (row[window] - down)[seen].tolist(),
                (column[window] - across)[seen].tolist(),
                strict=True,
            )
        }
        if len(origins) != 1 or not origins <= set(grid):
            return False
        used += origins
    return len(used) == len(set(used))


def test_local_shuffle_without_overlaps_keeps_every_pixel():
    images = torch.rand(30, 3, 4, 4, generator=generator())  # patches of 1 or 2
    shuffled = local_shuffle(images, generator=generator(1))
    for one, other in zip(shuffled.flatten(2), images.flatten(2), strict=True):
        assert torch.equal(one.sort(1).values, other.sort(1).values)


def test_all_orders_of_patches_occur_alike():
    images = torch.arange(4).view(1, 1, 2, 2).expand(2400, -1, -1, -1) / 4
    shuffled = local_shuffle(images, generator=generator()).flatten(1)
    found = collections.Counter(map(tuple, shuffled.tolist()))
    assert len(found) == 24
    assert all(abs(n - 100) < 5 * 100**0.5 for n in found.values())


def test_extend_reaches_down_and_right_below_its_reach():
    height, width, count = 224, 230, 60
    row, column = sources(extend(places(height, width, count), generator=generator()))
    inner = (slice(None), slice(0, 200), slice(0, 200))
    down = (row - torch.arange(height).view(-1, 1))[inner]
    across = (column - torch.arange(width))[inner]
    reaches = down.amax((1, 2)) + 1
    assert torch.equal(reaches, across.amax((1, 2)) + 1)
    assert set(reaches.tolist()) == set(range(3, 10))
    for image, reach in enumerate(reaches.tolist()):
        both = (down[image] * reach + across[image]).flatten().bincount(minlength=reach**2)
        expected = 200 * 200 / reach**2
        assert len(both) == reach**2
        assert (abs(both - expected) < 6 * expected**0.5).all()


def test_extend_stops_at_the_edge():
    row, column = sources(extend(places(30, 20, 8), generator=generator()))
    assert (row[:, -1] == 29).all() and (column[:, :, -1] == 19).all()
