"""PART: adversarial training with a smaller epsilon on pixels that matter less."""

from collections.abc import Callable

from torch import Tensor, nn

from components.objectives.adversarial import check_share, mixture
from components.objectives.budgets import PixelBudget
from components.objectives.crafting import Once, Precision, attack_view
from components.tensors import Images, Targets


def part(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    attack: Callable[..., Images],
    budget: PixelBudget,
    clean_share: float = 0.0,
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give what `adversarial` gives, with an epsilon for each pixel.

    Zhang et al., 2024, https://arxiv.org/abs/2406.00685.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities; the attack leads away from the likeliest class.
        attack: model, images, labels, epsilon and seed to adversarial images.
        budget: from images to the epsilon of their pixels.
        clean_share: weight of the clean images' loss, in [0, 1].
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the attack, one for all or one per image.

    Returns:
        The losses of `adversarial`, and the figures of the budget where images were crafted.

    Raises:
        ValueError: the clean share lies outside [0, 1].
    """
    labels, figures = targets.argmax(1), {}

    def craft() -> Images:
        with attack_view(model, images, precision) as view:
            crafted, found = budget.spend(attack, view, images, labels, seed=seed)
        figures.update(found)
        return crafted

    check_share(clean_share)
    losses = mixture(model, images, (attacked or Once())(craft), targets, clean_share)
    return {**losses, **figures}
