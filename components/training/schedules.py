"""Table SCHEDULES: how far training is -> share of the peak of the learning rate."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Moment(NamedTuple):
    """How far training is.

    Attributes:
        epoch: epochs done, with the fraction of the one under way.
        epochs: in all.
        scores: what chooses the best epoch, of each one done; the larger the better.
    """

    epoch: float
    epochs: int
    scores: Sequence[float] = ()


def constant(now: Moment) -> float:  # noqa: ARG001  the signature all schedules share
    """Stay at the peak."""
    return 1.0


def cosine(now: Moment) -> float:
    """Fall from the peak to zero along half a cosine."""
    return (1 + math.cos(math.pi * now.epoch / now.epochs)) / 2


def one_cycle(now: Moment, *, rise: float = 0.3) -> float:
    """Rise to the peak over the first 30 % and fall to zero, both along straight lines.

    Args:
        now: the moment.
        rise: share of training on the way up, in (0, 1).
    """
    if not 0 < rise < 1:
        raise ValueError(f"rise must be between 0 and 1, got {rise}")
    done = now.epoch / now.epochs
    return done / rise if done < rise else (1 - done) / (1 - rise)


def step(
    now: Moment, *, milestones: Sequence[int] = (), every: int = 0, factor: float = 0.1
) -> float:
    """Multiply by a factor at some epochs.

    Args:
        now: the moment.
        milestones: epochs done at which the rate falls.
        every: let it fall each time so many epochs are done, instead of at milestones.
        factor: what it is multiplied by, in (0, 1].
    """
    if bool(milestones) == (every > 0) or every < 0:
        raise ValueError("step takes either milestones or every, an epoch or more")
    _check_factor(factor)
    done = int(now.epoch)
    falls = done // every if every else sum(done >= milestone for milestone in milestones)
    return factor**falls


def plateau(now: Moment, *, patience: int = 10, factor: float = 0.1) -> float:
    """Multiply by a factor whenever the validation score has not risen for some epochs.

    Args:
        now: the moment.
        patience: epochs without a new best score until the rate falls.
        factor: what it is multiplied by, in (0, 1].
    """
    if patience < 1:
        raise ValueError(f"patience must be at least 1, got {patience}")
    _check_factor(factor)
    best, stale, falls = -math.inf, 0, 0
    for score in now.scores:
        stale = 0 if score > best else stale + 1
        best = max(best, score)
        if stale == patience:
            falls, stale = falls + 1, 0
    return factor**falls


def _check_factor(factor: float) -> None:
    if not 0 < factor <= 1:
        raise ValueError(f"factor must be in (0, 1], got {factor}")


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "plateau": plateau,
    "step": step,
}
