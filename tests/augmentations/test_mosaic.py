import collections

import pytest
import torch

from components.augmentations.mosaic import mosaic

BACKGROUND = 0.3


def squares(count, height=224, width=224, seed=0):
    """Find the covered square of each image: top, left, height and width, and its pixels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((count, 3, height, width), BACKGROUND)
    for image in mosaic(images, generator=generator):
        changed = (image != BACKGROUND).any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        box = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        yield int(rows[0]), int(columns[0]), box


def test_sides_and_places_are_those_published():
    sides = collections.Counter()
    for top, left, box in squares(200):
        side = box.shape[1]
        assert box.shape[2] == side
        assert 2 * side <= top < 224 - 2 * side and 2 * side <= left < 224 - 2 * side
        sides[side] += 1
    assert sides.keys() == set(range(13, 27))


def test_seven_of_ten_are_noise_and_the_others_one_tone():
    kinds = collections.Counter()
    for _, _, box in squares(1000, 32, 32):
        tone = box.flatten()[0].item() if len(box.unique()) == 1 else "noise"
        kinds[tone if tone == "noise" else round(tone * 255)] += 1
    assert kinds.keys() == {"noise", 0, 255, 127}
    for kind, found in kinds.items():
        share = 0.7 if kind == "noise" else 0.1
        assert abs(found - 1000 * share) < 5 * (1000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(("height", "width"), [(112, 300), (32, 32), (5, 9), (1, 1)])
def test_squares_follow_the_shorter_side(height, width):
    scale = min(height, width) / 224
    for top, left, box in squares(60, height, width):
        side = box.shape[1]
        assert box.shape[2] == side
        assert max(1, round(13 * scale)) <= side <= max(1, round(26 * scale))
        assert 0 <= top <= height - side and 0 <= left <= width - side
