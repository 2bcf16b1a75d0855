"""Random chain: gates of their own, one after another."""

import pytest
import torch

from components.augmentations import AUGMENTATIONS
from components.augmentations.operations import OPERATIONS
from components.augmentations.random_chain import random_chain


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(images, probabilities, seed=0):
    targets = torch.ones(len(images), 1)
    changed, same = random_chain(
        images, targets, probabilities=probabilities, generator=generator(seed)
    )
    assert same is targets
    return changed


def test_every_operation_in_the_given_order():
    images = torch.rand(3, 3, 6, 8, generator=generator(1))
    assert torch.equal(
        chain(images, {"horizontal_flip": 1.0, "vertical_flip": 1.0}), images.flip(2, 3)
    )
    swapped = chain(images, {"block_shuffle": 1.0, "rgb_shuffle": 1.0})
    assert torch.equal(swapped.sum(1).flatten(1).sort().values.round(decimals=4),
                       images.sum(1).flatten(1).sort().values.round(decimals=4))  # fmt: skip


def test_gates_are_independent():
    """One mirrors left to right, one top to bottom: four outcomes with known shares."""
    count, across, down = 4000, 0.3, 0.1
    images = torch.tensor([[0.0, 0.25], [0.5, 0.75]]).expand(count, 1, 2, 2)
    corner = chain(images, {"horizontal_flip": across, "vertical_flip": down})[:, 0, 0, 0]
    for value, share in (
        (0.0, (1 - across) * (1 - down)),
        (0.25, across * (1 - down)),
        (0.5, (1 - across) * down),
        (0.75, across * down),
    ):
        found = int((corner == value).sum())
        assert abs(found - count * share) < 5 * (count * share * (1 - share)) ** 0.5


def test_the_published_chain_leaves_one_image_in_five_as_it_is():
    """0.95 to the 32nd; a few more, as some operations may give the image back."""
    images = torch.rand(1, 3, 24, 24, generator=generator(1)).expand(1500, -1, -1, -1)
    changed, _ = random_chain(images, torch.ones(1500, 1), generator=generator())
    same = (changed == images).flatten(1).all(1).double().mean()
    assert 0.95**32 - 0.05 < same < 0.95**32 + 0.06


def test_it_is_the_chain_of_single_augmentations():
    """The same shares of outcomes, image by image, though other draws."""
    count, probabilities = 3000, {"horizontal_flip": 0.2, "rgb_shuffle": 0.5}
    images = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5]).view(1, 3, 1, 2).expand(count, -1, -1, -1)
    singles, draws = images, generator(5)
    for name, probability in probabilities.items():
        singles, _ = AUGMENTATIONS[name](
            singles, torch.ones(count, 1), probability=probability, generator=draws
        )
    keys = [x.flatten(1)[:, :3] @ torch.tensor([1.0, 10, 100]) for x in (singles, images)]
    keys[1] = chain(images, probabilities).flatten(1)[:, :3] @ torch.tensor([1.0, 10, 100])
    outcomes = torch.cat(keys).round(decimals=3).unique()
    assert len(outcomes) == 12
    shares = [[(key.round(decimals=3) == o).double().mean() for o in outcomes] for key in keys]
    assert (torch.tensor(shares[0]) - torch.tensor(shares[1])).abs().max() < 0.05


def test_no_operations_change_nothing():
    images = torch.rand(3, 3, 6, 8, generator=generator(1))
    assert torch.equal(chain(images, {}), images)
    assert torch.equal(chain(images, dict.fromkeys(OPERATIONS, 0.0)), images)


def test_wrong_operation_or_probability():
    images = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="unknown operation 'fogg'"):
        chain(images, {"fogg": 0.1})
    with pytest.raises(ValueError, match="probability must be in"):
        chain(images, {"fog": 2.0})
