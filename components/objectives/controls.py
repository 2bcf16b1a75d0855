"""Table CONTROLS: masks that do without importance what masks do with it.

If training with one of these is as good, importance is not the cause.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from components.objectives.importance import distance_to_centre, random_maps
from components.objectives.masks import highest


def budget_matched(weights: Tensor, *, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Give every pixel of the batch the mean: how much, without where."""
    return weights.mean().expand_as(weights).clone()


def shuffled(weights: Tensor, *, seed: int = 0) -> Tensor:
    """Give every image the mask of another one, as the published code of PART does.

    Each mask moves by the same random number of places, so that none stays but a lone one.
    """
    count = len(weights)
    if count < 2:
        return weights
    return weights.roll(int(torch.randint(1, count, (), generator=_generator(seed))), 0)


def inverted(weights: Tensor, *, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Give the larger epsilon to what matters least."""
    return 1 - weights


def random_blobs(weights: Tensor, *, seed: int = 0) -> Tensor:
    """Give each image blobs at random places that cover as many pixels as its mask."""
    generator = _generator(seed, weights.device)
    labels = torch.zeros(len(weights), dtype=torch.int64, device=weights.device)
    size = weights.shape[2], weights.shape[3]
    return _as_many(random_maps(labels, size, generator), weights)


def centre_disc(weights: Tensor, *, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Give each image a disc at its centre that covers as many pixels as its mask."""
    distance = distance_to_centre((weights.shape[2], weights.shape[3]), weights.device)
    return _as_many((-distance).expand(len(weights), 1, -1, -1), weights)


CONTROLS: dict[str, Callable[..., Tensor]] = {
    "budget_matched": budget_matched,
    "centre_disc": centre_disc,
    "inverted": inverted,
    "random_blobs": random_blobs,
    "shuffled": shuffled,
}


def _as_many(maps: Tensor, weights: Tensor) -> Tensor:
    return highest(maps, weights.mean((1, 2, 3)) * maps[0].numel())


def _generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)
