"""How the learning rate moves: share of training done -> share of the peak."""

import math
from collections.abc import Callable


def constant(done: float) -> float:  # noqa: ARG001  the signature all schedules share
    """Stay at the peak."""
    return 1.0


def cosine(done: float) -> float:
    """Fall from the peak to zero along half a cosine."""
    return (1 + math.cos(math.pi * done)) / 2


def one_cycle(done: float) -> float:
    """Rise to the peak over the first 30 % and fall to zero, both along straight lines."""
    return done / 0.3 if done < 0.3 else (1 - done) / 0.7


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
