"""Adversarial training: cross-entropy on images attacked as the model stands."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from components.objectives.crafting import Once, Precision, attack_view
from components.tensors import Classifier, Images, Targets


def adversarial(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    attack: Callable[..., Images],
    clean_share: float = 0.0,
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give the mean cross-entropy on adversarial images, mixed with that on clean ones.

    Madry et al., 2018, https://arxiv.org/abs/1706.06083, equation 2.1; with a clean share of one
    third it is the mixture of Madaan et al., 2020. The images are attacked in evaluation mode and
    through the honest view: trained through masked gradients, a model learns nothing.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities; the attack leads away from the likeliest class.
        attack: model, images, labels and seed to adversarial images.
        clean_share: weight of the clean images' loss, in [0, 1].
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the attack, one for all or one per image.

    Returns:
        ``loss``, the mixture, and its parts ``adversarial_loss`` and, where it has weight,
        ``clean_loss``; means over the batch.

    Raises:
        ValueError: the clean share lies outside [0, 1].
    """

    def craft() -> Images:
        with attack_view(model, images, precision) as view:
            return attack(view, images, targets.argmax(1), seed=seed)

    check_share(clean_share)
    return mixture(model, images, (attacked or Once())(craft), targets, clean_share)


def mixture(
    model: Classifier, images: Images, attacked: Images, targets: Targets, clean_share: float
) -> dict[str, Tensor]:
    """Give the cross-entropy on attacked images, mixed with that on the clean ones."""
    adversarial_loss = functional.cross_entropy(model(attacked).float(), targets)
    if clean_share == 0:
        return {"loss": adversarial_loss, "adversarial_loss": adversarial_loss.detach()}
    clean_loss = functional.cross_entropy(model(images).float(), targets)
    return {
        "loss": clean_share * clean_loss + (1 - clean_share) * adversarial_loss,
        "adversarial_loss": adversarial_loss.detach(),
        "clean_loss": clean_loss.detach(),
    }


def check_share(clean_share: float) -> None:
    """Refuse a share that is none.

    Raises:
        ValueError: it lies outside [0, 1].
    """
    if not 0 <= clean_share <= 1:
        raise ValueError(f"clean_share must be in [0, 1], got {clean_share}")
