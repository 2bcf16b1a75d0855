"""Random chain: every operation in turn, each image with a chance of its own at each."""

from collections.abc import Mapping

import torch

from components.augmentations.gates import draw_gates
from components.augmentations.operations import OPERATIONS
from components.config import unknown
from components.tensors import Images, Targets

_PUBLISHED_PROBABILITY = 0.05
_NOT_PUBLISHED = "random_cut"  # defined there, but not in its chain


def random_chain(
    images: Images,
    targets: Targets,
    *,
    probabilities: Mapping[str, float] | None = None,
    generator: torch.Generator,
) -> tuple[Images, Targets]:
    """Send the images through many operations, one after another, most of which they skip.

    The same as a chain of single operations, but the batch is copied once instead of at each. Pei
    et al., 2022, https://arxiv.org/abs/2205.10617, apply 32 operations with probability 0.05 each:
    1.6 per image, and none to one image in five.

    Args:
        images: float in [0, 1].
        targets: pass through.
        probabilities: of each operation, by name, in the order of their use; None is the published
            chain.
        generator: on the images' device.

    Raises:
        ValueError: there is no such operation, or a probability is outside [0, 1].
    """
    if probabilities is None:
        probabilities = dict.fromkeys(OPERATIONS, _PUBLISHED_PROBABILITY)
        del probabilities[_NOT_PUBLISHED]
    for name in probabilities:
        if name not in OPERATIONS:
            raise ValueError(unknown("operation", name, OPERATIONS))
    gates = draw_gates(torch.tensor(list(probabilities.values())), len(images), generator)
    changed = images.clone()
    for name, gate in zip(probabilities, gates, strict=True):
        rows = gate.nonzero().flatten()
        if len(rows):
            changed[rows] = OPERATIONS[name](changed[rows], generator=generator)
    return changed, targets
