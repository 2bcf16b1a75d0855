"""PART-M: MART with a smaller epsilon on pixels that matter less."""

from collections.abc import Callable

from torch import Tensor, nn

from components.objectives.budgets import PixelBudget
from components.objectives.crafting import Forwards, Once, Precision, attack_view
from components.objectives.mart import misclassification_aware
from components.tensors import Images, Targets


def part_m(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    attack: Callable[..., Images],
    budget: PixelBudget,
    beta: float = 6.0,
    legacy_constants: bool = False,
    forwards: Forwards = "separate",
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give what `mart` gives, with an epsilon for each pixel.

    Zhang et al., 2024, https://arxiv.org/abs/2406.00685.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities, of which the likeliest class counts.
        attack: model, images, labels, epsilon and seed to adversarial images.
        budget: from images to the epsilon of their pixels.
        beta: weight of the divergence.
        legacy_constants: add what the published code adds inside its logarithms.
        forwards: ``separate`` or ``joint``, see `paired_logits`.
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the attack, one for all or one per image.

    Returns:
        The losses of `mart`, and the figures of the budget where images were crafted.

    Raises:
        ValueError: beta is negative, or forwards is neither of these.
    """
    labels, figures = targets.argmax(1), {}

    def craft() -> Images:
        with attack_view(model, images, precision) as view:
            crafted, found = budget.spend(attack, view, images, labels, seed=seed)
        figures.update(found)
        return crafted

    losses = misclassification_aware(
        model, images, (attacked or Once())(craft), labels, beta, legacy_constants, forwards
    )
    return {**losses, **figures}
