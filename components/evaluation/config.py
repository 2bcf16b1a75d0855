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
        suite: attacks by name with their options; each starts on every correctly classified image
            that still stands.
        draws: forward passes per image with which a randomised model is judged.
        batch_size: images per forward pass.
        num_images: how many test images are attacked, the first of the split; 0 takes all.
        seed: of every attack and of a randomised model's draws.
    """

    epsilon: Annotated[float, Range(at_least=0, at_most=1)]
    norm: Annotated[str, OneOf("linf", "l2")] = "linf"
    suite: tuple[Choice, ...] = (
        {"name": "fgsm"},
        {"name": "pgd", "steps": 20},
        {"name": "pgd", "steps": 20, "loss": "margin"},
        {"name": "random_noise"},
    )
    draws: Annotated[int, Range(at_least=2)] = 20
    batch_size: Annotated[int, Range(at_least=1)] = 256
    num_images: Annotated[int, Range(at_least=0)] = 0
    seed: Annotated[int, Range(at_least=0)] = 0
