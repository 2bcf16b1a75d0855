"""Gates: each image goes through with its probability, and options stay options."""

import inspect

import pytest
import torch

from components.augmentations import AUGMENTATIONS
from components.augmentations.gates import sometimes
from components.augmentations.operations import OPERATIONS
from components.choose import choose

TARGETS = torch.ones(1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def invert(images, *, strength: float = 1.0, generator):
    """Turn bright into dark."""
    return images + strength * (1 - 2 * images)


def halve(images, *, generator):
    return images[..., ::2, ::2]


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.3, 1.0])
def test_so_many_images_go_through(probability):
    count = 4000
    images = torch.zeros(count, 1, 1, 1)
    changed, _ = sometimes(invert)(
        images, TARGETS.expand(count, 1), probability=probability, generator=generator()
    )
    spread = 5 * (count * probability * (1 - probability)) ** 0.5
    assert set(changed.unique().tolist()) <= {0.0, 1.0}
    assert abs(float(changed.sum()) - count * probability) <= spread


def test_published_defaults():
    for name in OPERATIONS:
        parameter = inspect.signature(AUGMENTATIONS[name]).parameters["probability"]
        assert parameter.default == (0.1 if name == "vertical_flip" else 0.3)


def test_options_of_the_operation_are_options_of_the_augmentation():
    table = {"invert": sometimes(invert)}
    augment = choose(
        table, {"name": "invert", "strength": 0.25, "probability": 1}, given=("generator",)
    )
    changed, targets = augment(torch.zeros(2, 1, 1, 1), TARGETS, generator=generator())
    assert (changed == 0.25).all() and targets is TARGETS
    assert sometimes(invert).__doc__ == "Turn bright into dark."


@pytest.mark.parametrize(
    ("option", "message"),
    [({"chance": 1.0}, "no option 'chance'"), ({"probability": "no"}, "probability must be")],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        choose(AUGMENTATIONS, {"name": "rotate", **option}, given=("generator",))


def test_severity_is_an_option_of_corruptions():
    augment = choose(
        AUGMENTATIONS, {"name": "contrast", "severity": 5, "probability": 1.0}, given=("generator",)
    )
    images = torch.rand(4, 3, 8, 8, generator=generator())
    expected = OPERATIONS["contrast"](images, severity=5, generator=generator())
    changed, _ = augment(images, TARGETS.expand(4, 1), generator=generator())
    assert torch.allclose(changed, expected)


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_probability_out_of_range(probability):
    augment = sometimes(invert)
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got"):
        augment(torch.zeros(1, 1, 1, 1), TARGETS, probability=probability, generator=generator())


def test_a_change_of_size_needs_all_images():
    images, targets = torch.zeros(8, 1, 4, 4), TARGETS.expand(8, 1)
    smaller, _ = sometimes(halve)(images, targets, probability=1.0, generator=generator())
    assert smaller.shape == (8, 1, 2, 2)
    with pytest.raises(ValueError, match="needs probability 1"):
        sometimes(halve)(images, targets, probability=0.5, generator=generator())
