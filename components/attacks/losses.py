"""What an attacker climbs, per sample and in float32: cross-entropy, logit odds, margin, DLR."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional

from components.config import unknown
from components.tensors import Labels, Logits, PerSample

_TINY = 1e-12  # of the published code: keeps equal logits from dividing by zero


def cross_entropy(logits: Logits, labels: Labels) -> PerSample:
    """Give ``log sum_j exp z_j - z_y``; for parity, since its gradient vanishes on sure models."""
    return functional.cross_entropy(_checked(logits, labels), labels, reduction="none")


def logit_odds(logits: Logits, labels: Labels) -> PerSample:
    """Give ``log sum_{j != y} exp z_j - z_y``.

    Cross-entropy is its softplus, so both rank points alike and share the direction of every
    gradient, but this one never underflows.
    """
    own, others = _split(logits, labels)
    return others.logsumexp(1) - own


def margin(logits: Logits, labels: Labels) -> PerSample:
    """Give ``max_{j != y} z_j - z_y``: positive where the model is wrong.

    Carlini and Wagner, 2017, https://arxiv.org/abs/1608.04644, equation 6 of their list.
    """
    own, others = _split(logits, labels)
    return others.amax(1) - own


def difference_of_logits_ratio(logits: Logits, labels: Labels) -> PerSample:
    """Give ``-(z_y - max_{j != y} z_j) / (z_1st - z_3rd)``, blind to shift and scale of the logits.

    Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, equation 6.

    Raises:
        ValueError: there are fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"dlr needs at least 3 classes, the model tells {logits.shape[1]} apart")
    logits = _checked(logits, labels)
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_margin(logits: Logits, labels: Labels, targets: Labels) -> PerSample:
    """Give ``z_t - z_y``."""
    logits = _checked(_checked(logits, labels), targets)
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def targeted_difference_of_logits_ratio(
    logits: Logits, labels: Labels, targets: Labels
) -> PerSample:
    """Give ``-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2)``.

    Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, equation 7.

    Raises:
        ValueError: there are fewer than four classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(
            f"targeted dlr needs at least 4 classes, the model tells {logits.shape[1]} apart"
        )
    top = logits.float().topk(4, dim=1).values
    span = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return targeted_margin(logits, labels, targets) / (span + _TINY)


def targeted_cross_entropy(logits: Logits, labels: Labels, targets: Labels) -> PerSample:  # noqa: ARG001
    """Give ``log p_t``; the true class only counts as one of the others."""
    return -functional.cross_entropy(_checked(logits, targets), targets, reduction="none")


def _checked(logits: Logits, labels: Labels) -> Logits:
    """Give the logits in float32, or refuse what no attack can read."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            "logits must be of shape (batch, classes) with at least 2 classes, "
            f"got {tuple(logits.shape)}"
        )
    # Elsewhere the question would make every step wait; an accelerator refuses labels by itself.
    if logits.device.type == "cpu":
        if bool((labels >= logits.shape[1]).any()):
            raise ValueError(
                f"labels must be below the {logits.shape[1]} classes of the model, "
                f"got {int(labels.max())}"
            )
        # The sum is the cheaper question, but huge logits make it infinite as well.
        total = logits.detach().sum().item()
        if not math.isfinite(total) and not bool(logits.isfinite().all()):
            raise ValueError("logits must be finite, the model gives some that are not")
    return logits.float()


def _split(logits: Logits, labels: Labels) -> tuple[PerSample, Logits]:
    logits, column = _checked(logits, labels), labels[:, None]
    # Masked with minus infinity: multiplying with zero would let 0 win over negative logits.
    return logits.gather(1, column).squeeze(1), logits.scatter(1, column, -torch.inf)


AttackLoss: TypeAlias = Callable[[Logits, Labels], PerSample]
TargetedLoss: TypeAlias = Callable[[Logits, Labels, Labels], PerSample]

LOSSES: dict[str, AttackLoss] = {
    "cross_entropy": cross_entropy,
    "dlr": difference_of_logits_ratio,
    "logit_odds": logit_odds,
    "margin": margin,
}

TARGETED_LOSSES: dict[str, TargetedLoss] = {
    "cross_entropy": targeted_cross_entropy,
    "dlr": targeted_difference_of_logits_ratio,
    "margin": targeted_margin,
}


def of_logits(loss: AttackLoss, labels: Labels) -> Callable[[Logits], PerSample]:
    """Settle the labels of a loss; what is left is what `input_gradient` takes."""
    return lambda logits: loss(logits, labels)


def choose_loss(name: str) -> AttackLoss:
    """Look up a loss by name.

    Raises:
        ValueError: there is no such loss.
    """
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, LOSSES))
    return LOSSES[name]


def choose_targeted_loss(name: str) -> TargetedLoss:
    """Look up a targeted loss by name.

    Raises:
        ValueError: there is no such loss.
    """
    if name not in TARGETED_LOSSES:
        raise ValueError(unknown("targeted loss", name, TARGETED_LOSSES))
    return TARGETED_LOSSES[name]
