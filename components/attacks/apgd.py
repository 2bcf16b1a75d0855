"""Auto-PGD: gradient ascent with momentum whose steps halve themselves."""

from typing import Literal

import torch
from torch import Tensor

from components.attacks.climb import check_effort, climb
from components.attacks.geometry import radius
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import choose_loss
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels, Logits, PerSample


@torch.no_grad()
def apgd(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    loss: str = "logit_odds",
    keep: Literal["first", "best"] = "first",
    draws: int = 1,
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Climb the loss by Auto-PGD, which needs no step size.

    Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, algorithm 1, for linf and L2; Croce and
    Hein, 2021, https://arxiv.org/abs/2103.01208, algorithm 1 and section 3.3, for L1. `Halving` and
    `Sparsifying` say where we differ.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: per restart, which takes one more evaluation of the model.
        restarts: climbs from different random points.
        loss: an entry of LOSSES.
        keep: ``first`` is done with an image once it is misclassified: cheaper, and right wherever
            the model is deterministic and images do not influence each other. ``best`` follows
            every image to the end and keeps the misclassified point of largest margin. Both keep
            the point of largest loss where none is misclassified.
        draws: forward passes whose losses, gradients and logits are averaged at each step, for
            models that draw at random.
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's start depends on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    check_effort(keep, steps=steps, restarts=restarts, draws=draws, batch_size=batch_size)
    climbed, budget = choose_loss(loss), radius(epsilon, images, norm)
    if not len(images):
        return images.clone()

    def objective(logits: Logits, rows: Labels, attempts: Labels) -> PerSample:  # noqa: ARG001
        return climbed(logits, labels[rows])

    with untouched(model):
        return climb(
            model,
            images,
            labels,
            objective,
            epsilon=budget,
            norm=norm,
            steps=steps,
            attempts=restarts,
            keep=keep,
            draws=draws,
            batch_size=batch_size,
            seeds=sample_seeds(seed, len(images), images.device),
        )
