"""TRADES: cross-entropy on clean images, and how far an attack moves the model's answer."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.objectives.crafting import (
    Forwards,
    Once,
    Precision,
    attack_view,
    divergence,
    paired_logits,
)
from components.tensors import Images, Targets


def trades(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    attack: Callable[..., Images],
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    forwards: Forwards = "separate",
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give ``CE(f(x), y) + beta KL(p(x) || p(x'))``, where x' climbs that divergence.

    Zhang et al., 2019, https://arxiv.org/abs/1901.08573, equation 5. Gradients flow through both
    arguments of the divergence. Differs from the published code: the clean answer is computed once
    for all steps of the attack, and once for both parts of the loss.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities.
        attack: an ascent; TRADES starts it ``near`` the image, since at the image itself the
            divergence has no gradient.
        beta: weight of the divergence, 1 / lambda in the paper.
        label_smoothing: share of probability spread evenly over all classes, in the first part.
        forwards: see `paired_logits`.
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the attack, one for all or one per image.

    Returns:
        ``loss`` and its parts, ``clean_loss`` and ``divergence``; means over the batch.

    Raises:
        ValueError: beta is negative.
    """

    @torch.no_grad()
    def craft() -> Images:
        with attack_view(model, images, precision) as view:
            climbed = partial(divergence, view(images))
            return attack(view, images, targets.argmax(1), loss=climbed, seed=seed)

    crafted = (attacked or Once())(craft)
    return trade_off(model, images, crafted, targets, beta, label_smoothing, forwards)


def trade_off(
    model: nn.Module,
    images: Images,
    attacked: Images,
    targets: Targets,
    beta: float,
    label_smoothing: float,
    forwards: Forwards,
) -> dict[str, Tensor]:
    """Give the loss of TRADES on images that are attacked already.

    Raises:
        ValueError: beta is negative.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    clean, adversarial, compared = paired_logits(model, images, attacked, forwards)
    clean_loss = functional.cross_entropy(
        clean.float(), targets.float(), label_smoothing=label_smoothing
    )
    moved = divergence(compared, adversarial).mean()
    return {
        "loss": clean_loss + beta * moved,
        "clean_loss": clean_loss.detach(),
        "divergence": moved.detach(),
    }
