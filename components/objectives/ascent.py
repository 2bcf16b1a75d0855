"""Ascent: the attack that papers on training describe, from their starts and up any loss."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import perturbed, project, radius, random_start, steepest_step
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import choose_loss, of_logits
from components.randomness import normal, sample_seeds, uniform
from components.tensors import Classifier, Images, Labels, Logits, PerSample

_NEAR = 0.001  # standard deviation of the noise from which TRADES and MART start


@torch.no_grad()
def ascent(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    step_share: float | None = None,
    start: Literal["ball", "near", "cube", "clean"] = "ball",
    loss: str | Callable[[Logits], PerSample] = "logit_odds",
    seed: int | Tensor = 0,
) -> Images:
    """Climb a loss by projected steepest steps of one length, and give the last point.

    Besides what `pgd` can do, it starts where published training code starts, and climbs losses
    that ask for more than labels, as TRADES does.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: gradients.
        step_size: in pixel units, the same for all pixels.
        step_share: of epsilon, pixel by pixel; without either, 2.5 / steps.
        start: ``ball`` is uniform in ball and box; ``near`` adds a little Gaussian noise; ``cube``
            is uniform within the largest epsilon of all, and may leave ball and box until the first
            step, as in the published code of PART; ``clean`` is the image itself.
        loss: an entry of LOSSES, or from logits to what every image climbs.
        seed: one for all, or one per image.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    budget = radius(epsilon, images, norm).expand(len(images), -1, -1, -1)
    stride = _stride(budget, steps, step_size, step_share)
    climbed = of_logits(choose_loss(loss), labels) if isinstance(loss, str) else loss
    seeds = sample_seeds(seed, len(images), images.device)
    points = _start(start, images, budget, norm, seeds)
    with untouched(model):
        for _ in range(steps):
            _, gradient, _ = input_gradient(model, points, climbed)
            shift = steepest_step(gradient, points, stride, norm).add_(points).sub_(images)
            points = perturbed(images, project(shift, images, budget, norm))
    return points


def _stride(budget: Tensor, steps: int, size: float | None, share: float | None) -> Tensor:
    if size is not None and share is not None:
        raise ValueError("step_size and step_share exclude each other")
    for name, value in (("step_size", size), ("step_share", share)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if size is not None:
        return torch.full_like(budget, size)
    return budget * (2.5 / steps if share is None else share)


def _start(start: str, images: Images, budget: Tensor, norm: str, seeds: Tensor) -> Images:
    shape = tuple(images.shape[1:])
    if start == "clean":
        return images
    if start == "ball":
        return perturbed(images, random_start(images, budget, norm, seeds, stream=0))
    if start == "near":
        noise = _NEAR * normal(seeds, shape, stream=0)
        return perturbed(images, project(noise, images, budget, norm))
    if start == "cube" and norm == "linf":
        return images + budget.amax() * (2 * uniform(seeds, shape, stream=0) - 1)
    raise ValueError(f"start must be ball, near, clean or, for linf, cube, got {start!r}")
