"""Every entry of OPERATIONS keeps the one contract they share."""

import inspect

import pytest
import torch

from components.augmentations.operations import OPERATIONS

SHAPES = [(2, 3, 24, 24), (2, 1, 28, 28), (2, 3, 17, 40), (3, 3, 1, 1), (2, 1, 2, 5), (0, 3, 9, 9)]
DRAWS_NOTHING = {"horizontal_flip", "vertical_flip", "blur"}
SEVERE = {name for name, o in OPERATIONS.items() if "severity" in inspect.signature(o).parameters}
# Nothing but the severity is random, so they draw nothing once it is given.
DRAW_NOTHING_ELSE = {
    "defocus_blur", "zoom_blur", "contrast", "brightness", "saturate", "compress", "pixelate"
}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(shape, seed=1):
    """Neighbouring pixels alike, as in pictures, with some pure black and white."""
    images = torch.rand(shape, generator=generator(seed))
    images = (images.cumsum(3) / 3).frac()
    images.flatten()[::5] = 1.0
    images.flatten()[1::5] = 0.0
    return images


@pytest.fixture(params=OPERATIONS)
def name(request):
    return request.param


@pytest.fixture
def operation(name):
    return OPERATIONS[name]


def test_all_thirty_three_are_there_in_the_published_order():
    assert len(OPERATIONS) == 33
    assert list(OPERATIONS)[:16] == [
        "pepper_salt_noise", "color_point_noise", "gaussian_noise", "mosaic", "rgb_shuffle",
        "rotate", "horizontal_flip", "vertical_flip", "random_cut", "gaussian_blur", "blur", "rain",
        "extend", "block_shuffle", "local_shuffle", "random_padding",
    ]  # fmt: skip
    assert set(list(OPERATIONS)[16:]) == SEVERE


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_type_and_range_are_kept_and_the_input_left_alone(operation, shape):
    images = batch(shape)
    copy = images.clone()
    for seed in range(2):
        changed = operation(images, generator=generator(seed))
        assert changed.shape == shape and changed.dtype == torch.float32
        assert ((changed >= 0) & (changed <= 1)).all()
        assert torch.equal(images, copy)


@pytest.mark.parametrize("extreme", [0.0, 1.0])
def test_black_and_white_images_stay_in_range(operation, extreme):
    changed = operation(torch.full((2, 3, 19, 16), extreme), generator=generator())
    assert ((changed >= 0) & (changed <= 1)).all()


def test_the_result_shares_no_memory_with_the_input(operation):
    images = batch((2, 3, 24, 24))
    copy = images.clone()
    operation(images, generator=generator()).fill_(0.5)
    assert torch.equal(images, copy)


def test_the_generator_decides_everything(name, operation):
    images = batch((8, 3, 20, 20))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = operation(images, generator=generator(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, operation(images, generator=generator(3)))
    same = torch.equal(first, operation(images, generator=generator(4)))
    assert same == (name in DRAWS_NOTHING)


def test_each_image_has_draws_of_its_own(name, operation):
    images = batch((1, 3, 24, 24)).expand(12, -1, -1, -1)
    changed = operation(images, generator=generator())
    assert (len(changed.unique(dim=0)) > 1) == (name not in DRAWS_NOTHING)


def test_something_happens(operation):
    images = batch((12, 3, 32, 32))
    different = (operation(images, generator=generator()) != images).flatten(1).any(1)
    assert different.sum() >= 4  # the old order or no strength may be drawn, or a small angle


def test_memory_formats_make_no_difference(operation):
    images = batch((3, 3, 12, 20))
    for other in (
        images.to(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        expected = operation(images, generator=generator())
        # Sums may be taken in another order.
        torch.testing.assert_close(
            operation(other, generator=generator()), expected, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", sorted(SEVERE))
def test_a_severity_can_be_fixed(name):
    images = batch((1, 3, 24, 24)).expand(6, -1, -1, -1)
    for severity in (1, 5):
        changed = OPERATIONS[name](images, severity=severity, generator=generator())
        assert (len(changed.unique(dim=0)) == 1) == (name in DRAW_NOTHING_ELSE)
    with pytest.raises(ValueError, match="severity"):
        OPERATIONS[name](images, severity=6, generator=generator())
