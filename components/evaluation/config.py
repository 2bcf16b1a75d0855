"""What can be set when a model's robustness is measured."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, OneOf, Range


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """The threat model and the attacks on the test split.

    Attributes:
        epsilon: radius of the ball in pixel units.
        norm: of the ball.
        suite: attacks by name with their options; each is tried on every image that is classified
            correctly. Their radius and norm are those of the threat model.
        draws: forward passes per image with which a randomised model is judged.
        view_draws: draws that the honest view of a randomised model averages per gradient; more
            make a stronger attack.
        batch_size: images per forward pass.
        num_images: how many test images are attacked, the first of the split; 0 takes all.
        seed: of every attack and of a randomised model's draws.
    """

    epsilon: Annotated[float, Range(above=0)]
    norm: Annotated[str, OneOf("linf", "l2")] = "linf"
    suite: tuple[Choice, ...] = (
        {"name": "fgsm"},
        {"name": "pgd", "steps": 20},
        {"name": "pgd", "steps": 20, "loss": "margin"},
        {"name": "random_noise"},
    )
    draws: Annotated[int, Range(at_least=2)] = 20
    view_draws: Annotated[int, Range(at_least=1)] = 8
    batch_size: Annotated[int, Range(at_least=1)] = 256
    num_images: Annotated[int, Range(at_least=0)] = 0
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "linf" and self.epsilon > 1:
            raise ValueError(
                f"epsilon must be at most 1 for linf and pixels in [0, 1], got {self.epsilon:g}"
            )
        if not self.suite:
            raise ValueError("suite must name at least one attack")
        names = [attack_label(choice) for choice in self.suite]
        if len(set(names)) < len(names):
            raise ValueError(f"suite must not name two attacks alike, got {names}")
        for choice in self.suite:
            if given := {"epsilon", "norm"} & choice.keys():
                raise ValueError(
                    f"suite takes {' and '.join(sorted(given))} from the threat model, leave it "
                    f"out of {choice['name']}"
                )


def attack_label(choice: Choice) -> str:
    """Name an attack with its options: ``pgd-20-margin``."""
    return "-".join(str(option) for option in choice.values())
