"""What an attacker climbs, per sample and in float32: cross-entropy, logit odds, margin."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch.nn import functional

from components.config import unknown
from components.tensors import Labels, Logits, PerSample


def cross_entropy(logits: Logits, labels: Labels) -> PerSample:
    """Give ``log sum_j exp z_j - z_y``; for parity, since its gradient vanishes on sure models."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


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


def _split(logits: Logits, labels: Labels) -> tuple[PerSample, Logits]:
    logits, column = logits.float(), labels[:, None]
    # Masked with minus infinity: multiplying with zero would let 0 win over negative logits.
    return logits.gather(1, column).squeeze(1), logits.scatter(1, column, -torch.inf)


AttackLoss: TypeAlias = Callable[[Logits, Labels], PerSample]

LOSSES: dict[str, AttackLoss] = {
    "cross_entropy": cross_entropy,
    "logit_odds": logit_odds,
    "margin": margin,
}


def choose_loss(name: str) -> AttackLoss:
    """Look up a loss by name.

    Raises:
        ValueError: there is no such loss.
    """
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, LOSSES))
    return LOSSES[name]
