import pytest
import torch
from torch.nn import functional

from components.augmentations.crop_and_flip import crop_and_flip

HEIGHT, WIDTH, PADDING = 4, 5, 2
# Values that tell every pixel of an image apart, so that each crop can come from one place only.
MARKED = (torch.arange(2 * HEIGHT * WIDTH).view(1, 2, HEIGHT, WIDTH) + 1) / 64


def augmented(count, *, seed=0, **options):
    images, targets = MARKED.expand(count, -1, -1, -1), torch.zeros(count, 3)
    generator = torch.Generator().manual_seed(seed)
    return crop_and_flip(images, targets, **options, generator=generator)[0]


def places(images, flip_probability):
    """By brute force, the place each image was cut from and whether it was mirrored."""
    padded = functional.pad(MARKED[0], (PADDING,) * 4)
    known = {}
    for top in range(2 * PADDING + 1):
        for left in range(2 * PADDING + 1):
            crop = padded[:, top : top + HEIGHT, left : left + WIDTH]
            known[tuple(crop.flatten().tolist())] = (top, left, False)
            if flip_probability:
                known[tuple(crop.flip(2).flatten().tolist())] = (top, left, True)
    return [known[tuple(image.flatten().tolist())] for image in images]


@pytest.mark.parametrize("flip_probability", [0.0, 0.3, 1.0])
def test_every_image_is_a_crop_of_its_own(flip_probability):
    count = 4000
    images = augmented(count, padding=PADDING, flip_probability=flip_probability)
    found = places(images, flip_probability)
    for side in (0, 1):
        drawn = torch.tensor([place[side] for place in found]).bincount(minlength=5)
        # Five places with the same chance; five standard deviations of a binomial.
        assert (drawn - count / 5).abs().max() < 5 * (count * 0.2 * 0.8) ** 0.5
    mirrored = sum(place[2] for place in found)
    spread = 5 * (count * flip_probability * (1 - flip_probability)) ** 0.5
    assert abs(mirrored - count * flip_probability) <= spread


def test_rows_and_columns_move_independently():
    found = places(augmented(4000, padding=PADDING, flip_probability=0.0), 0)
    top, left = (torch.tensor([place[side] for place in found]).double() for side in (0, 1))
    assert abs(torch.corrcoef(torch.stack([top, left]))[0, 1]) < 5 / 4000**0.5


def test_flip_alone_mirrors_left_to_right():
    assert torch.equal(augmented(1, padding=0, flip_probability=1.0), MARKED.flip(3))


def test_padding_beyond_the_image_works():
    assert augmented(50, padding=9, flip_probability=0.5).shape == (50, 2, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "options", [{"padding": -1}, {"flip_probability": 1.5}, {"flip_probability": -0.1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        augmented(1, **options)
