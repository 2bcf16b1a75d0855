"""Transfer: adversarial images made on other models, for each image the worst for this one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components.attacks.geometry import radius
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.randomness import mix, sample_seeds
from components.tensors import Classifier, Images, Labels


@torch.no_grad()
def transfer(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    surrogates: Sequence[Classifier],
    attack: Callable[..., Images],
    epsilon: float | Tensor,
    norm: str = "linf",
    seed: int | Tensor = 0,
) -> Images:
    """Attack every surrogate and keep, of each image, the result of largest margin on the model.

    It needs no gradient of the model, so masked gradients cannot hide from it. It takes models,
    which no recipe can write down, and so it is no entry of ATTACKS: an evaluation makes its
    surrogates views of their own, and has each attacked by its whole suite.

    Args:
        model: asked once per surrogate, in evaluation mode, and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        surrogates: models to attack; at least one.
        attack: an entry of ATTACKS, with its options bound by `choose`.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        seed: one for all, or one per image; no two surrogates are attacked under the same.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: there is no surrogate, or images, labels, epsilon or norm are not as described.
    """
    check_images(images, labels)
    radius(epsilon, images, norm)
    if not surrogates:
        raise ValueError("surrogates must hold at least one model, got none")
    seeds = sample_seeds(seed, len(images), images.device)
    best, largest = images.clone(), torch.full(labels.shape, -torch.inf, device=images.device)
    if not len(images):
        return best
    for index, surrogate in enumerate(surrogates):
        candidate = attack(
            surrogate, images, labels, epsilon=epsilon, norm=norm, seed=mix(seeds, index)
        )
        with untouched(model):
            margins = margin(model(candidate), labels)
        better = margins > largest
        best[better], largest[better] = candidate[better], margins[better]
    return best
