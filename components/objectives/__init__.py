"""Table OBJECTIVES: model, images, targets -> losses by name."""

from collections.abc import Callable

from torch import Tensor

from components.attacks import ATTACKS
from components.choose import choose
from components.config import Choice
from components.objectives.adversarial import adversarial
from components.objectives.cross_entropy import cross_entropy

Objective = Callable[..., dict[str, Tensor]]

OBJECTIVES: dict[str, Objective] = {
    "adversarial": adversarial,
    "cross_entropy": cross_entropy,
}


def choose_objective(choice: Choice) -> Objective:
    """Look up an objective; an attack among its options is itself a choice, from ATTACKS.

    Raises:
        ValueError: a name or an option is unknown, or a required option is missing.
    """
    if "attack" in choice:
        attack = choose(ATTACKS, choice["attack"], given=("seed",))
        choice = {**choice, "attack": attack}
    return choose(OBJECTIVES, choice, given=("seed",))
