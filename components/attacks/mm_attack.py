"""Minimum-margin attack: the margin to a few likely classes, by Auto-PGD in few steps."""

from typing import Literal

import torch
from torch import Tensor

from components.attacks.apgd_targeted import apgd_targeted
from components.tensors import Classifier, Images, Labels


@torch.no_grad()
def mm_attack(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int = 20,
    targets: int = 3,
    keep: Literal["first", "best"] = "first",
    draws: int = 1,
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Climb the margin towards the likeliest wrong classes by Auto-PGD.

    Gao et al., 2022, https://arxiv.org/abs/2206.07314, algorithm 1: MM3; with 9 targets it is MM9,
    with 100 steps as well MM+.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: per target, which takes one more evaluation of the model.
        targets: wrong classes to try, those of largest logits on the clean image; at most all.
        keep: as for `apgd`.
        draws: as for `apgd`.
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's starts depend on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    return apgd_targeted(
        model,
        images,
        labels,
        epsilon=epsilon,
        norm=norm,
        steps=steps,
        targets=targets,
        loss="margin",
        keep=keep,
        draws=draws,
        batch_size=batch_size,
        seed=seed,
    )
