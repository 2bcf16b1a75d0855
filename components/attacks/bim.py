"""Basic iterative method: signed steps from the clean image."""

import math
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import radius
from components.attacks.gradients import check_images
from components.attacks.mim import mim
from components.tensors import Classifier, Images, Labels


@torch.no_grad()
def bim(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int | None = None,
    step_size: float | None = None,
    loss: str = "logit_odds",
    keep: Literal["best", "first", "last"] = "best",
    draws: int = 1,
    seed: int | Tensor = 0,
) -> Images:
    """Climb the loss from the clean image by short steepest steps.

    Kurakin et al., 2017, https://arxiv.org/abs/1607.02533, section 2.2. Differs from the paper:
    keeps the strongest of all points.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: gradients in all; None takes the paper's rule for linf, as many steps of one level
            of 255 as the smaller of 1.25 times epsilon and epsilon and 4 levels, by the largest
            epsilon there is; 10 for other norms.
        step_size: in pixel units; None takes epsilon / steps, or what steps of None come with.
        loss: an entry of LOSSES.
        keep: as of `pgd`.
        draws: forward passes whose losses, gradients and logits are averaged at each step.
        seed: without effect.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    limit = radius(epsilon, images, norm)
    if not len(images):
        return images.clone()
    if steps is None and norm == "linf":
        levels = 255 * float(limit.max())
        steps = max(1, math.ceil(min(levels + 4, 1.25 * levels) - 1e-3))  # less what is rounding
        step_size = 1 / 255 if step_size is None else step_size
    return mim(
        model,
        images,
        labels,
        epsilon=epsilon,
        norm=norm,
        steps=10 if steps is None else steps,
        step_size=step_size,
        momentum=0.0,
        loss=loss,
        keep=keep,
        draws=draws,
        seed=seed,
    )
