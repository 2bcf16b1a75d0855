"""PART-T: TRADES with a smaller epsilon on pixels that matter less."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from components.objectives.budgets import PixelBudget
from components.objectives.crafting import Forwards, Once, Precision, attack_view, divergence
from components.objectives.trades import trade_off
from components.tensors import Images, Targets


def part_t(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    attack: Callable[..., Images],
    budget: PixelBudget,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    forwards: Forwards = "separate",
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give what `trades` gives, with an epsilon for each pixel.

    Zhang et al., 2024, https://arxiv.org/abs/2406.00685. The maps come from the forward pass of the
    clean images that TRADES needs anyway.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities.
        attack: an ascent, without an epsilon of its own.
        budget: from images to the epsilon of their pixels.
        beta: weight of the divergence.
        label_smoothing: as of `trades`.
        forwards: see `paired_logits`; the published code has them ``legacy``.
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the attack, one for all or one per image.

    Returns:
        The losses of `trades`, and the figures of the budget where images were crafted.

    Raises:
        ValueError: beta is negative.
    """
    labels, figures = targets.argmax(1), {}

    @torch.no_grad()
    def craft() -> Images:
        with attack_view(model, images, precision) as view:
            allowed = budget(view, images, labels, seed=seed)
            clean = view(images) if allowed.logits is None else allowed.logits
            climbed = partial(divergence, clean)
            crafted = attack(view, images, labels, epsilon=allowed.epsilon, loss=climbed, seed=seed)
        figures.update(budget.figures(allowed, images, crafted))
        return crafted

    crafted = (attacked or Once())(craft)
    losses = trade_off(model, images, crafted, targets, beta, label_smoothing, forwards)
    return {**losses, **figures}
