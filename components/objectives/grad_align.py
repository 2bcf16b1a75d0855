"""GradAlign: one-step adversarial training on a loss surface kept straight."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.attacks.geometry import perturbed, radius, random_start, steepest_perturbation
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import cross_entropy, of_logits
from components.defences.defended import honest_view
from components.objectives.adversarial import mixture
from components.randomness import sample_seeds
from components.tensors import Images, Labels, PerSample, Targets


def grad_align(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    epsilon: float,
    weight: float | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give the cross-entropy after FGSM, and how much the gradient turns within the ball.

    Andriushchenko and Flammarion, 2020, https://arxiv.org/abs/2007.02617, equation 5: the second
    part is ``weight (1 - cos(g(x), g(x + u)))`` with u uniform in the ball. It is differentiated
    through the second gradient; the first one serves the attack as well. Differs from the published
    code: both gradients are taken in evaluation mode, and images without a gradient do not count.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities; the attack leads away from the likeliest class.
        epsilon: radius in pixel units, for linf.
        weight: of the second part, lambda in the paper; None takes `usual_weight`.
        seed: of u, one for all or one per image.

    Returns:
        ``loss`` and its parts, ``adversarial_loss`` and ``misalignment``; means over the batch.

    Raises:
        ValueError: epsilon or the weight is not as described.
    """
    labels = targets.argmax(1)
    check_images(images, labels)
    weight = usual_weight(epsilon) if weight is None else weight
    if not weight >= 0:
        raise ValueError(f"weight must be at least 0, got {weight}")
    budget = radius(epsilon, images, "linf")
    with untouched(model):
        loss = of_logits(cross_entropy, labels)
        _, slope, _ = input_gradient(honest_view(model), images, loss)
    attacked = perturbed(images, steepest_perturbation(slope, images, budget, "linf"))
    seeds = sample_seeds(seed, len(images), images.device)
    nearby = perturbed(images, random_start(images, budget, "linf", seeds, stream=0))
    turned = 1 - alignment(slope, _slope_to_learn(model, nearby, labels))
    counted = slope.flatten(1).any(1)
    misalignment = (turned * counted).sum() / counted.sum().clamp_min(1)
    losses = mixture(model, images, attacked, targets, 0)
    return {
        "loss": losses["loss"] + weight * misalignment,
        "adversarial_loss": losses["adversarial_loss"],
        "misalignment": misalignment.detach(),
    }


def usual_weight(epsilon: float) -> float:
    """Give the weight used for CIFAR-10: 0.2 at 8/255, 2 at 16/255, and in between on a curve."""
    return 0.02 * math.exp(255 * epsilon / 8 * math.log(10))


def alignment(first: Images, second: Images) -> PerSample:
    """Give the cosine between the gradients of each image."""
    return functional.cosine_similarity(first.flatten(1), second.flatten(1), dim=1, eps=1e-12)


def _slope_to_learn(model: nn.Module, points: Images, labels: Labels) -> Images:
    """Give the gradient at points as something that depends on the weights."""
    points = points.detach().requires_grad_(True)
    with _evaluating(model):
        losses = cross_entropy(honest_view(model)(points), labels)
    (slope,) = torch.autograd.grad(losses.sum(), points, create_graph=True)
    return slope


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
