"""Momentum iterative method: signed steps along an average of the gradients so far."""

import math
from collections.abc import Iterator
from itertools import count
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from components.attacks.geometry import perturbed, project, radius, steepest_step
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import choose_loss, margin, of_logits
from components.attacks.pgd import BestPoints, judge
from components.randomness import sample_seeds, uniform
from components.tensors import Classifier, Images, Labels, Logits

_SMALLEST = 0.9  # side of a diversified image, of the whole: 300 of 330 pixels in the paper


@torch.no_grad()
def mim(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 1.0,
    lookahead: bool = False,
    diversity: float = 0.0,
    loss: str = "logit_odds",
    keep: Literal["best", "first", "last"] = "best",
    draws: int = 1,
    seed: int | Tensor = 0,
) -> Images:
    """Climb the loss from the clean image along gradients that remember those before them.

    Dong et al., 2018, https://arxiv.org/abs/1710.06081, algorithm 1. Made for images that carry
    over to other models, for which look-ahead and diversity help. Differs from the paper: keeps the
    strongest of all points, and divides gradients by their mean size, which is their L1 norm up to
    the number of pixels.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: gradients in all.
        step_size: in pixel units; None takes epsilon / steps.
        momentum: share of what is remembered that stays, mu of the paper.
        lookahead: take each gradient where momentum alone would lead (Lin et al., 2020,
            https://arxiv.org/abs/1908.06281, equation 6).
        diversity: chance that a step sees an image shrunk by up to a tenth and moved (Xie et al.,
            2019, https://arxiv.org/abs/1803.06978, section 3.3); 0 to 1.
        loss: an entry of LOSSES.
        keep: as of `pgd`.
        draws: forward passes whose losses, gradients and logits are averaged at each step.
        seed: one for all, or one per image; without effect unless there is diversity.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    _check(steps=steps, draws=draws, step_size=step_size, momentum=momentum, diversity=diversity)
    if keep not in ("best", "first", "last"):
        raise ValueError(f"keep must be one of ['best', 'first', 'last'], got {keep!r}")
    climbed = choose_loss(loss)
    limit = radius(epsilon, images, norm).expand(len(images), -1, -1, -1)
    length = limit / steps if step_size is None else torch.full_like(limit, step_size)
    seeds = sample_seeds(seed, len(images), images.device)
    best, rows = BestPoints(images), torch.arange(len(images), device=images.device)
    if not len(images):
        return best.adversarial
    clean, true, point = images, labels, torch.zeros_like(images)
    memory, streams = torch.zeros_like(images), count()
    with untouched(model):
        for _ in range(steps):
            attacked = ahead = perturbed(clean, point)
            if lookahead:
                ahead = perturbed(attacked, steepest_step(memory, clean, momentum * length, norm))
            view = _diversified(model, diversity, seeds, streams) if diversity else model
            losses, gradient, logits = input_gradient(
                view, ahead, of_logits(climbed, true), draws=draws
            )
            memory = momentum * memory + _of_mean_size_one(gradient)
            step = steepest_step(memory, attacked, length, norm)
            point = project(step.add_(point), clean, limit, norm)
            if keep == "last":
                continue
            margins = margin(logits, true)
            if lookahead or diversity:  # which was not asked about the point itself
                losses, margins = judge(model, attacked, true, climbed, draws)
            best.offer(rows, attacked, losses, margins)
            if keep == "first" and bool((margins > 0).any()):
                left = (margins <= 0).nonzero().squeeze(1)
                rows, clean, true, point = rows[left], clean[left], true[left], point[left]
                limit, length, memory, seeds = limit[left], length[left], memory[left], seeds[left]
                if not len(rows):
                    break
        last = perturbed(clean, point)
        if keep == "last":
            return last
        if len(rows):
            best.offer(rows, last, *judge(model, last, true, climbed, draws))
    return best.adversarial


def _check(
    *, steps: int, draws: int, step_size: float | None, momentum: float, diversity: float
) -> None:
    for name, number in {"steps": steps, "draws": draws}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    if not 0 <= momentum < math.inf:
        raise ValueError(f"momentum must be at least 0 and finite, got {momentum}")
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity must be in [0, 1], got {diversity}")


def _of_mean_size_one(gradient: Images) -> Images:
    """Divide by the mean size of the entries; nothing stays nothing."""
    # By the largest first, since the sum of huge ones would be infinite.
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-38)
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _diversified(
    model: Classifier, chance: float, seeds: Tensor, streams: Iterator[int]
) -> Classifier:
    """Show the model each image, by chance, shrunk and moved within a black frame."""

    def view(images: Images) -> Logits:
        chosen, size, left, top = uniform(seeds, (4, 1), stream=next(streams)).unbind(1)
        size = torch.where(chosen < chance, _SMALLEST + (1 - _SMALLEST) * size, 1.0)
        # The grid says where in the image, from -1 to 1, each pixel of the frame comes from.
        centre = (1 - size) * (2 * torch.cat([left, top], 1) - 1)
        scale = torch.eye(2, device=images.device) / size[..., None]
        frame = torch.cat([scale, -(centre / size)[..., None]], 2)
        grid = functional.affine_grid(frame, list(images.shape), align_corners=False)
        return model(functional.grid_sample(images, grid, align_corners=False))

    return view
