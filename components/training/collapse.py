"""Collapse: a model that has learnt to withstand the one step it is trained with, and no other."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.attacks.fgsm import fgsm
from components.attacks.gradients import untouched
from components.attacks.pgd import pgd
from components.defences.defended import honest_view
from components.tensors import Classifier, Images, Labels

_DROP = 0.2  # of accuracy, from one look to the next (Wong et al., 2020), or from one step to many


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one step and many steps left of a model's accuracy.

    Attributes:
        fgsm_accuracy: share of images that are right after one step.
        pgd_accuracy: share that is right after several.
    """

    fgsm_accuracy: float
    pgd_accuracy: float


def look(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    epsilon: float,
    steps: int = 5,
    seed: int | Tensor = 0,
) -> Look:
    """Attack a batch by one step and by several, through the honest view.

    Costs two forward passes and one gradient more than the steps.

    Args:
        model: left as it was.
        images: of the validation split, always the same.
        labels: the true classes.
        epsilon: radius in pixel units, for linf.
        steps: of PGD.
        seed: of its start, one for all or one per image.
    """
    view = honest_view(model)
    with untouched(model):
        stepped = fgsm(view, images, labels, epsilon=epsilon)
        climbed = pgd(view, images, labels, epsilon=epsilon, steps=steps, keep="last", seed=seed)
        return Look(
            fgsm_accuracy=_accuracy(view, stepped, labels),
            pgd_accuracy=_accuracy(view, climbed, labels),
        )


def collapse(now: Look, before: Look | None) -> str | None:
    """Say how a model collapsed, or None if it did not.

    Wong et al., 2020, https://arxiv.org/abs/2001.03994, section 5.4: accuracy under PGD falls by
    more than 20 points while that under FGSM does not. So does a gap between the two of as much,
    whenever the last look was.

    Args:
        now: the latest look.
        before: the one before it, if any.
    """
    gap = now.fgsm_accuracy - now.pgd_accuracy
    if gap > _DROP:
        return (
            f"catastrophic overfitting: {now.fgsm_accuracy:.1%} withstand one step, "
            f"{now.pgd_accuracy:.1%} several"
        )
    if before is None:
        return None
    fall = before.pgd_accuracy - now.pgd_accuracy
    if fall > _DROP and before.fgsm_accuracy - now.fgsm_accuracy <= _DROP:
        return (
            f"catastrophic overfitting: accuracy under several steps fell from "
            f"{before.pgd_accuracy:.1%} to {now.pgd_accuracy:.1%}, under one step it did not"
        )
    return None


@torch.no_grad()
def _accuracy(view: Classifier, images: Images, labels: Labels) -> float:
    return float((view(images).argmax(1) == labels).float().mean())
