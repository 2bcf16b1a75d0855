"""Fast gradient sign method: one step along the gradient, as far as ball and box allow."""

import torch
from torch import Tensor

from components.attacks.geometry import perturbed, radius, steepest_perturbation
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import choose_loss
from components.tensors import Classifier, Images, Labels


@torch.no_grad()
def fgsm(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    loss: str = "logit_odds",
    seed: int | Tensor = 0,  # noqa: ARG001  every attack takes one; this one draws nothing
) -> Images:
    """Take the one step inside ball and box that climbs furthest along the gradient.

    Goodfellow et al., 2015, https://arxiv.org/abs/1412.6572, section 4, for any norm. Differs from
    the paper: the step knows the box, which for linf amounts to clipping; and it climbs the logit
    odds, whose gradient has the same signs as the cross-entropy's but does not underflow.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        loss: an entry of LOSSES.
        seed: without effect.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels, epsilon, norm or loss are not as described.
    """
    check_images(images, labels)
    budget, climbed = radius(epsilon, images, norm), choose_loss(loss)
    if not len(images):
        return images.clone()
    with untouched(model):
        _, gradient, _ = input_gradient(model, images, lambda logits: climbed(logits, labels))
    return perturbed(images, steepest_perturbation(gradient, images, budget, norm))
