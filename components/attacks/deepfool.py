"""DeepFool: step to the nearest linearised decision boundary until it is crossed."""

from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import brought_back, perturbed, radius
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.attacks.planes import nearest_plane, rivals
from components.tensors import Classifier, Images, Labels


@torch.no_grad()
def deepfool(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor | None,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    seed: int | Tensor = 0,  # noqa: ARG001  every attack takes one; this one draws nothing
) -> Images:
    """Add up steps to the nearest linearised boundary, until an image is misclassified.

    Moosavi-Dezfooli et al., 2016, https://arxiv.org/abs/1511.04599, algorithm 2 and equations 10
    and 11. Differs from the paper: steps stay in the box, so that each is the shortest to a point
    that can be reached.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images; an
            adversarial image further away is shrunk onto the ball. None for no limit.
        norm: ``linf`` or ``l2``.
        steps: of an image at most; each takes one forward pass, and one backward pass per
            candidate but the label.
        overshoot: what is added to the perturbation, as a share of it.
        candidates: classes among which the boundaries are looked for, the label and those that
            the model ranks highest for the clean image.
        seed: without effect.

    Returns:
        Adversarial images in the ball and in [0, 1]; clean ones where none was found, and where
        the clean image is misclassified already.

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be one of ['linf', 'l2'], got {norm!r}")
    if steps < 1 or candidates < 2 or not overshoot >= 0:
        raise ValueError(
            "steps must be at least 1, candidates at least 2 and overshoot at least 0, "
            f"got {steps}, {candidates} and {overshoot}"
        )
    if epsilon is not None:
        radius(epsilon, images, norm)
    if not len(images):
        return images.clone()
    adversarial = images.clone()
    with untouched(model):
        logits = model(images)
        rows = (margin(logits, labels) <= 0).nonzero().squeeze(1)
        classes = rivals(logits, labels, candidates - 1)
        points, perturbation = images[rows], torch.zeros_like(images[rows])
        for step in range(steps + 1):
            if not len(rows) or not classes.shape[1]:
                break
            if step == steps:  # the last point is only looked at
                logits = model(points)
            else:
                _, _, way, logits = nearest_plane(model, points, labels[rows], classes[rows], norm)
                perturbation += way
            fooled = margin(logits, labels[rows]) > 0
            adversarial[rows[fooled]] = points[fooled]
            rows, perturbation = rows[~fooled], perturbation[~fooled]
            points = perturbed(images[rows], (1 + overshoot) * perturbation)
    return brought_back(adversarial, images, epsilon, norm)
