"""Every entry of AUGMENTATIONS keeps the one contract they share."""

import pytest
import torch

from components.augmentations import AUGMENTATIONS
from components.augmentations.operations import OPERATIONS
from components.choose import choose

# The options at which an entry leaves images and targets as they are.
ZERO_STRENGTH = {
    "crop_and_flip": {"padding": 0, "flip_probability": 0.0},
    "cutmix": {"alpha": 0.0},
    "mixup": {"alpha": 0.0},
    "random_chain": {"probabilities": {}},
    "random_resize_pad": {"min_size": 1.0},
    "random_resized_crop": {"smallest_area": 1.0},  # of a square, only all of it has that area
    **{name: {"probability": 0.0} for name in OPERATIONS},
}
SHAPES = [(1, 1, 28, 28), (5, 3, 32, 32), (4, 1, 7, 12), (3, 3, 1, 1), (0, 3, 8, 8)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(shape, seed=1):
    draws = generator(seed)
    images = torch.rand(shape, generator=draws)
    images.flatten()[::3] = 1.0
    images.flatten()[1::3] = 0.0
    return images, torch.rand(shape[0], 4, generator=draws).softmax(1)


@pytest.fixture(params=AUGMENTATIONS)
def name(request):
    return request.param


@pytest.fixture
def augment(name):
    return choose(AUGMENTATIONS, {"name": name}, given=("generator",))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_type_and_range_are_kept(augment, shape):
    images, targets = batch(shape)
    augmented, blended = augment(images, targets, generator=generator())
    assert augmented.shape == images.shape and augmented.dtype == torch.float32
    assert blended.shape == targets.shape and blended.dtype == torch.float32
    assert ((augmented >= 0) & (augmented <= 1)).all()


def test_targets_stay_probabilities(augment):
    _, blended = augment(*batch((200, 1, 4, 4)), generator=generator())
    assert (blended >= 0).all()
    assert torch.allclose(blended.sum(1), torch.ones(200))


def test_the_generator_decides_everything(augment):
    images, targets = batch((16, 3, 24, 24))
    torch.manual_seed(0)
    first = augment(images, targets, generator=generator(3))
    torch.manual_seed(1)
    again = augment(images, targets, generator=generator(3))
    other = augment(images, targets, generator=generator(4))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_global_generators_are_left_alone(augment):
    before = torch.random.get_rng_state()
    augment(*batch((4, 1, 5, 5)), generator=generator())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_was_handed_over_is_left_alone(augment):
    images, targets = batch((16, 3, 9, 9))
    copies = images.clone(), targets.clone()
    augment(images, targets, generator=generator())
    assert torch.equal(images, copies[0]) and torch.equal(targets, copies[1])


def test_zero_strength_changes_nothing(name):
    augment = choose(AUGMENTATIONS, {"name": name, **ZERO_STRENGTH[name]}, given=("generator",))
    images, targets = batch((16, 3, 9, 9))
    augmented, blended = augment(images, targets, generator=generator())
    assert torch.equal(augmented, images) and torch.equal(blended, targets)


def test_every_entry_has_a_zero_strength():
    assert ZERO_STRENGTH.keys() == AUGMENTATIONS.keys()
