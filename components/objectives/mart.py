"""MART: adversarial training that heeds which clean images the model gets wrong."""

from collections.abc import Callable

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
from components.tensors import Images, Labels, Logits, PerSample, Targets

_LARGEST = 1 - 1e-4  # of a wrong class's probability, for its logarithm to stay finite


def mart(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    attack: Callable[..., Images],
    beta: float = 5.0,
    legacy_constants: bool = False,
    forwards: Forwards = "separate",
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give ``BCE(f(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x))``.

    Wang et al., 2020, https://openreview.net/forum?id=rklOg6EFwS, equation 9. Its accuracy under
    PGD flatters: measure a model trained like this with the whole suite.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities, of which the likeliest class counts.
        attack: model, images, labels and seed to adversarial images.
        beta: weight of the divergence, lambda in the paper.
        legacy_constants: add what the published code adds inside its logarithms.
        forwards: ``separate`` or ``joint``, see `paired_logits`.
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the attack, one for all or one per image.

    Returns:
        ``loss`` and its parts, ``boosted_loss`` and ``weighted_divergence``; means over the batch.

    Raises:
        ValueError: beta is negative, or forwards is neither of these.
    """
    labels = targets.argmax(1)

    def craft() -> Images:
        with attack_view(model, images, precision) as view:
            return attack(view, images, labels, seed=seed)

    crafted = (attacked or Once())(craft)
    return misclassification_aware(model, images, crafted, labels, beta, legacy_constants, forwards)


def misclassification_aware(
    model: nn.Module,
    images: Images,
    attacked: Images,
    labels: Labels,
    beta: float,
    legacy_constants: bool,
    forwards: Forwards,
) -> dict[str, Tensor]:
    """Give the loss of MART on images that are attacked already.

    Raises:
        ValueError: beta is negative, or forwards is neither separate nor joint.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    # Legacy is of TRADES alone: the published code of MART passes clean images once.
    if forwards not in ("separate", "joint"):
        raise ValueError(f"forwards of mart and part_m must be separate or joint, got {forwards!r}")
    clean, adversarial, _ = paired_logits(model, images, attacked, forwards)
    parts = _legacy if legacy_constants else _exact
    boosted, moved, unsure = parts(clean, adversarial, labels)
    boosted_loss, weighted = boosted.mean(), (moved * unsure).mean()
    return {
        "loss": boosted_loss + beta * weighted,
        "boosted_loss": boosted_loss.detach(),
        "weighted_divergence": weighted.detach(),
    }


def _exact(
    clean: Logits, adversarial: Logits, labels: Labels
) -> tuple[PerSample, PerSample, PerSample]:
    """Give boosted cross-entropy, divergence, and how unsure the model is of the clean image."""
    column = labels[:, None]
    answers = adversarial.float().log_softmax(1)
    rival = answers.scatter(1, column, -torch.inf).amax(1).exp().clamp_max(_LARGEST)
    boosted = -answers.gather(1, column).squeeze(1) - torch.log1p(-rival)
    sure = clean.float().softmax(1).gather(1, column).squeeze(1)
    return boosted, divergence(clean, adversarial), 1 - sure


def _legacy(
    clean: Logits, adversarial: Logits, labels: Labels
) -> tuple[PerSample, PerSample, PerSample]:
    """Give the same with the constants of the published code."""
    column = labels[:, None]
    known, after = clean.float().log_softmax(1), adversarial.float().softmax(1)
    before = known.exp()
    rival = after.scatter(1, column, -torch.inf).amax(1)
    boosted = functional.cross_entropy(adversarial.float(), labels, reduction="none")
    boosted = boosted - torch.log(1.0001 - rival + 1e-12)
    moved = (before * (known - torch.log(after + 1e-12))).sum(1)
    return boosted, moved, 1.0000001 - before.gather(1, column).squeeze(1)
