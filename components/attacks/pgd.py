"""Projected gradient descent: many small steps, and the strongest point on the way."""

from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import (
    perturbed,
    project,
    radius,
    random_start,
    steepest_step,
)
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import AttackLoss, choose_loss, margin, of_logits
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels, PerSample


@torch.no_grad()
def pgd(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    start: Literal["random", "clean"] = "random",
    loss: str = "logit_odds",
    keep: Literal["best", "first", "last"] = "best",
    draws: int = 1,
    seed: int | Tensor = 0,
) -> Images:
    """Climb the loss by projected steepest steps.

    Madry et al., 2018, https://arxiv.org/abs/1706.06083, section 2.1. Differs from the paper: keeps
    the strongest of all points, of all restarts, not the last one.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: gradients per restart.
        step_size: in pixel units; None takes 2.5 epsilon / steps.
        restarts: independent climbs.
        start: of each climb, uniform in ball and box, or the clean image, which is the better one
            for l1: its few pixels soon move as far as they may, while noise on all of them is slow
            to go.
        loss: an entry of LOSSES.
        keep: ``best`` follows every image to the end and keeps the misclassified point of largest
            margin, or else the point of largest loss. ``first`` is done with an image once it is
            misclassified: cheaper, and right wherever the model is deterministic and images do
            not influence each other. ``last`` keeps the end of the last climb, as adversarial
            training does, and saves one forward pass.
        draws: forward passes whose losses, gradients and logits are averaged at each step, for
            models that draw at random.
        seed: one for all, or one per image; an image's start depends on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, got {steps} and {restarts}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be above 0, got {step_size}")
    if start not in ("random", "clean") or keep not in ("best", "first", "last"):
        raise ValueError(f"start or keep is not as described, got {start!r} and {keep!r}")
    climbed = choose_loss(loss)
    budget = radius(epsilon, images, norm).expand(len(images), -1, -1, -1)
    stride = budget * (2.5 / steps) if step_size is None else torch.full_like(budget, step_size)
    seeds = sample_seeds(seed, len(images), images.device)
    strongest = BestPoints(images)
    with untouched(model):
        for restart in range(restarts):
            rows = torch.arange(len(images), device=images.device)
            if keep == "first":
                rows = rows[~strongest.fooled]
            if not len(rows):  # many models refuse an empty batch
                break
            clean, true, limit, length = images[rows], labels[rows], budget[rows], stride[rows]
            if start == "random":
                point = random_start(clean, limit, norm, seeds[rows], stream=restart)
            else:
                point = torch.zeros_like(clean)
            for _ in range(steps):
                attacked = perturbed(clean, point)
                losses, gradient, logits = input_gradient(
                    model, attacked, of_logits(climbed, true), draws=draws
                )
                step = steepest_step(gradient, attacked, length, norm)
                point = project(step.add_(point), clean, limit, norm)
                if keep == "last":
                    continue
                margins = margin(logits, true)
                strongest.offer(rows, attacked, losses, margins)
                if keep == "first" and bool((margins > 0).any()):
                    left = (margins <= 0).nonzero().squeeze(1)
                    rows, clean, true, point = rows[left], clean[left], true[left], point[left]
                    limit, length = limit[left], length[left]
                    if not len(rows):
                        break
            last = perturbed(clean, point)
            if keep == "last":
                strongest.adversarial = last
            elif len(rows):
                strongest.offer(rows, last, *judge(model, last, true, climbed, draws))
    return strongest.adversarial


def judge(
    model: Classifier, points: Images, labels: Labels, loss: AttackLoss, draws: int
) -> tuple[PerSample, PerSample]:
    """Give losses and margins, averaged over draws like those along the climb."""
    drawn = [model(points) for _ in range(draws)]
    losses = torch.stack([loss(logits, labels) for logits in drawn]).mean(0)
    return losses, margin(torch.stack(drawn).mean(0), labels)


class BestPoints:
    """The best point seen of each image: misclassified by the most, or else of largest loss."""

    def __init__(self, images: Images) -> None:
        self.adversarial = images.clone()
        self.fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._score = torch.full((len(images),), -torch.inf, device=images.device)

    def offer(self, rows: Tensor, points: Images, losses: PerSample, margins: PerSample) -> None:
        """Keep what is better than the best so far.

        Args:
            rows: which of the images these are.
            points: of these images.
            losses: at the points; they decide as long as nothing is misclassified.
            margins: at the points.
        """
        fooled = margins > 0
        score = torch.where(fooled, margins, losses)
        already = self.fooled[rows]
        better = (fooled & ~already) | ((fooled == already) & (score > self._score[rows]))
        if len(rows) == len(self.fooled):  # all, in their order: nothing to look up
            mask = better.view(-1, 1, 1, 1)
            torch.where(mask, points, self.adversarial, out=self.adversarial)
        else:
            self.adversarial[rows[better]] = points[better]
        self.fooled[rows] = torch.where(better, fooled, already)
        self._score[rows] = torch.where(better, score, self._score[rows])
