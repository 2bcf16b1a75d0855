"""What the steps of every method have in common: rates that fall, the attack, the mixed loss."""

from collections.abc import Callable, Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from components.objectives.crafting import Precision, attack_view
from components.pruning.config import PruningConfig
from components.tensors import Images, Logits, Targets

_DROP_FACTOR = 0.1


def set_rates(
    optimizers: Iterable[tuple[Optimizer, float]], settings: PruningConfig, done: int, total: int
) -> None:
    """Give optimizers the learning rates of a step.

    Args:
        optimizers: with the rate that each starts from.
        settings: say when rates fall.
        done: steps so far.
        total: steps in all.
    """
    falls = sum(done >= int(share * total) for share in settings.drops)
    for optimizer, rate in optimizers:
        for _ in range(falls):
            rate *= _DROP_FACTOR
        for group in optimizer.param_groups:
            group["lr"] = rate


def craft(
    attack: Callable[..., Images],
    model: nn.Module,
    images: Images,
    targets: Targets,
    settings: PruningConfig,
    number: int,
) -> Images:
    """Attack the images of a step.

    Args:
        attack: to be seeded.
        model: as it was afterwards.
        images: float32 in [0, 1].
        targets: class probabilities; the likeliest class is attacked.
        settings: the precision, and the seed of the first step.
        number: steps so far.
    """
    with attack_view(model, images, cast("Precision", settings.precision)) as view:
        return attack(view, images, targets.argmax(1), seed=settings.seed + number)


def mixed_loss(losses: dict[str, Tensor]) -> Tensor:
    """Give (CE_clean + 2 CE_adversarial) / 3, or CE_clean where nothing attacks."""
    if "adversarial_loss" not in losses:
        return losses["clean_loss"]
    return (losses["clean_loss"] + 2 * losses["adversarial_loss"]) / 3


def cross_entropies(clean: Logits, attacked: Logits | None, targets: Targets) -> dict[str, Tensor]:
    """Give ``clean_loss`` and, where something attacks, ``adversarial_loss``, each a mean."""
    losses = {"clean_loss": functional.cross_entropy(clean, targets)}
    if attacked is not None:
        losses["adversarial_loss"] = functional.cross_entropy(attacked, targets)
    return losses
