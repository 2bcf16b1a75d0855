"""Random noise in the ball: the baseline that every real attack must beat."""

import torch
from torch import Tensor

from components.attacks.geometry import perturbed, radius, random_start
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels


@torch.no_grad()
def random_noise(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    trials: int = 20,
    seed: int | Tensor = 0,
) -> Images:
    """Draw points at random and keep the one of largest margin.

    For linf every draw is a corner of the ball, which fools more often than its inside; else a
    point uniform in the ball. Needs no gradient, so masked gradients cannot hide from it.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        trials: draws per image.
        seed: one for all, or one per image; an image's draws depend on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    budget = radius(epsilon, images, norm)
    seeds = sample_seeds(seed, len(images), images.device)
    if not len(images):
        return images.clone()
    best, best_margin = images.clone(), torch.full(labels.shape, -torch.inf, device=images.device)
    with untouched(model):
        for trial in range(trials):
            noise = random_start(images, budget, norm, seeds, stream=trial)
            if norm == "linf":
                noise = budget * noise.sign()
            candidate = perturbed(images, noise)
            margins = margin(model(candidate), labels)
            better = margins > best_margin
            best[better], best_margin[better] = candidate[better], margins[better]
    return best
