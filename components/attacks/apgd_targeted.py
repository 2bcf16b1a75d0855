"""Targeted Auto-PGD: towards each of the most likely wrong classes in turn."""

import warnings
from typing import Literal

import torch
from torch import Tensor

from components.attacks.climb import check_effort, climb
from components.attacks.geometry import radius
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import choose_targeted_loss, margin
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels, Logits, PerSample


@torch.no_grad()
def apgd_targeted(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: str = "linf",
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    loss: str = "dlr",
    keep: Literal["first", "best"] = "first",
    draws: int = 1,
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Climb a targeted loss by Auto-PGD towards one wrong class after the other.

    Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, section 4.2. Differs from the published
    code: the true class is never a target, also where the clean image is misclassified.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        steps: per target and restart, which takes one more evaluation of the model.
        targets: wrong classes to try, those of largest logits on the clean image; at most all.
        restarts: rounds through the targets, from different random points.
        loss: an entry of TARGETED_LOSSES. The ratio ``dlr`` is made of four logits; a model of two
            or three classes is attacked on the ``margin`` instead, with a warning.
        keep: as for `apgd`.
        draws: as for `apgd`.
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's starts depend on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    check_effort(
        keep, steps=steps, targets=targets, restarts=restarts, draws=draws, batch_size=batch_size
    )
    climbed, budget = choose_targeted_loss(loss), radius(epsilon, images, norm)
    if not len(images):
        return images.clone()
    with untouched(model):
        wrong = likeliest_wrong(model, images, labels, draws=draws, batch_size=batch_size)
        num_classes = wrong.shape[1] + 1
        if loss == "dlr" and num_classes < 4:
            message = f"dlr needs 4 classes, the model tells {num_classes} apart: margin instead"
            warnings.warn(message, stacklevel=2)
            climbed = choose_targeted_loss("margin")
        wrong = wrong[:, :targets]

        def objective(logits: Logits, rows: Labels, attempts: Labels) -> PerSample:
            return climbed(logits, labels[rows], wrong[rows, attempts % wrong.shape[1]])

        return climb(
            model,
            images,
            labels,
            objective,
            epsilon=budget,
            norm=norm,
            steps=steps,
            attempts=restarts * wrong.shape[1],
            keep=keep,
            draws=draws,
            batch_size=batch_size,
            seeds=sample_seeds(seed, len(images), images.device),
        )


def likeliest_wrong(
    model: Classifier, images: Images, labels: Labels, *, draws: int, batch_size: int
) -> Tensor:
    """Rank the wrong classes of each image, that of the largest logit first."""
    ranks = []
    for pixels, true in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        logits = torch.stack([model(pixels) for _ in range(draws)]).mean(0)
        margin(logits, true)  # refuses logits that no loss could read
        others = logits.scatter(1, true[:, None], -torch.inf)
        ranks.append(others.argsort(dim=1, descending=True, stable=True)[:, :-1])
    return torch.cat(ranks)
