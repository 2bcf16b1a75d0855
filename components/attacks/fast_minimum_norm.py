"""Fast minimum-norm attack: a ball that shrinks where its points fool and grows where not."""

import math
from functools import partial

import torch
from torch import Tensor

from components.attacks.geometry import (
    brought_back,
    distance,
    dual_norm,
    perturbed,
    project,
    radius,
    steepest_step,
)
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import margin
from components.tensors import Classifier, Images, Labels, PerSample

_LAST_STEP = 0.01  # of the paper: what is left of the step size in the end
_LAST_GAMMA = 0.001  # of the paper
_FLATTEST = 1e-30  # gradient that anything is divided by
_SMALLEST = 1e-6  # radius, so that a tie at the clean image does not keep it there


@torch.no_grad()
def fmn(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor | None,
    norm: str = "linf",
    steps: int = 100,
    step_size: float = 1.0,
    gamma: float = 0.3,
    draws: int = 1,
    seed: int | Tensor = 0,  # noqa: ARG001  every attack takes one; this one draws nothing
) -> Images:
    """Find the nearest misclassified image: steepest steps in a ball whose radius adapts.

    One run gives the distance of every image, hence robust accuracy at every radius. Pintor et al.,
    2021, https://arxiv.org/abs/2102.12827, algorithm 1. Differs from the paper: steps are the
    steepest of the norm (for linf, shorter in flat pixels) and as long as a share of the radius,
    not of a fixed length in L2; gamma
    begins at 0.3, not 0.05; and the first estimate of the radius is exceeded by gamma too, or else
    an image comes ever closer to an almost flat boundary and never crosses it.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images; an
            adversarial image further away is shrunk onto the ball. None for no limit.
        norm: an entry of NORMS.
        steps: gradients.
        step_size: of the first step, in radii of the ball; falls to a hundredth along a cosine.
        gamma: in (0, 1), by which share the radius first changes; falls to 0.001 likewise.
        draws: forward passes that are averaged, for models that draw at random.
        seed: without effect.

    Returns:
        Adversarial images in the ball and in [0, 1]; clean ones where none was found, and where
        the clean image is misclassified already.

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if steps < 2 or draws < 1:
        raise ValueError(f"steps must be at least 2 and draws at least 1, got {steps} and {draws}")
    if not (step_size > 0 and 0 < gamma < 1):
        raise ValueError(
            f"step_size must be above 0 and gamma in (0, 1), got {step_size} and {gamma}"
        )
    radius(0.0 if epsilon is None else epsilon, images, norm)
    if not len(images):
        return images.clone()
    adversarial = images.clone()
    with untouched(model):
        leads, gradient, _ = input_gradient(
            model, images, partial(margin, labels=labels), draws=draws
        )
        rows = (leads <= 0).nonzero().squeeze(1)
        search = _Search(images[rows], norm)
        true, leads, gradient = labels[rows], leads[rows], gradient[rows]
        for step in range(1, steps if len(rows) else 0):
            share = (1 + math.cos(math.pi * (step - 1) / steps)) / 2
            search.adapt(leads, gradient, _LAST_GAMMA + (gamma - _LAST_GAMMA) * share)
            search.move(gradient, step_size * (_LAST_STEP + (1 - _LAST_STEP) * share))
            leads, gradient, _ = input_gradient(
                model, search.points, partial(margin, labels=true), draws=draws
            )
            search.offer(leads)
        adversarial[rows] = search.nearest
    return brought_back(adversarial, images, epsilon, norm)


class _Search:
    """Where each image is, how large its ball, and the nearest point that fools."""

    def __init__(self, images: Images, norm: str) -> None:
        self.points, self.nearest = images, images.clone()
        self._images, self._norm = images, norm
        self._perturbation = torch.zeros_like(images)
        self._largest = distance(torch.maximum(images, 1 - images), norm)
        self._radius = torch.full_like(self._largest, torch.inf)
        self._nearest_distance = self._radius.clone()

    def offer(self, leads: PerSample) -> None:
        """Keep points that fool from nearer than before."""
        reached = distance(self.points - self._images, self._norm)
        nearer = (leads > 0) & (reached < self._nearest_distance)
        self.nearest = torch.where(nearer[:, None, None, None], self.points, self.nearest)
        self._nearest_distance = torch.where(nearer, reached, self._nearest_distance)

    def adapt(self, leads: PerSample, gradient: Images, gamma: float) -> None:
        """Shrink balls whose point fools, let others grow; estimate those that never did."""
        slope = dual_norm(gradient, self._norm).clamp_min(_FLATTEST)
        estimate = distance(self.points - self._images, self._norm) + leads.abs() / slope
        found = self._nearest_distance.isfinite()
        grown = torch.where(found, self._radius, estimate) * (1 + gamma)
        shrunk = torch.minimum(self._radius * (1 - gamma), self._nearest_distance)
        wanted = torch.where(leads > 0, shrunk, grown).clamp_min(_SMALLEST)
        self._radius = torch.minimum(wanted, self._largest)

    def move(self, gradient: Images, share: float) -> None:
        """Take a step as long as a share of the radius, then come back into the ball."""
        ball = self._radius[:, None, None, None]
        if self._norm == "linf":
            # Signs alone would throw pixels of next to no slope about as far as the others.
            typical = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(_FLATTEST)
            step = share * ball * (gradient / typical).clamp(-1, 1)
        else:
            step = steepest_step(gradient, self.points, share * ball, self._norm)
        self._perturbation = project(self._perturbation + step, self._images, ball, self._norm)
        self.points = perturbed(self._images, self._perturbation)
