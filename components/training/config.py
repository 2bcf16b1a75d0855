"""What can be set when a model is trained for one stage."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, OneOf, Range


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """An objective plus settings; a stage is nothing more.

    Attributes:
        backbone: an entry of BACKBONES; None takes the initial model's.
        defences: entries of DEFENCES the model wears from this stage on, outermost last.
        objective: an entry of OBJECTIVES.
        augmentations: entries of AUGMENTATIONS, applied in this order.
        selection: the attack on the validation split that chooses the best epoch; None chooses by
            clean accuracy.
        epochs: passes over the training split.
        optimizer: the update rule.
        learning_rate: its peak.
        schedule: how the learning rate falls: not at all, by half a cosine, or up and down in one
            triangle.
        momentum: of SGD.
        weight_decay: coupled, on all parameters.
        batch_size: images per step.
        seed: of initial weights, shuffling, augmentation and attacks.
    """

    backbone: Choice | None = None
    defences: tuple[Choice, ...] = ()
    objective: Choice
    augmentations: tuple[Choice, ...] = ()
    selection: Choice | None = None
    epochs: Annotated[int, Range(at_least=0)] = 20
    optimizer: Annotated[str, OneOf("sgd", "adam")] = "adam"
    learning_rate: Annotated[float, Range(above=0)] = 1e-3
    schedule: Annotated[str, OneOf("constant", "cosine", "one_cycle")] = "cosine"
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.9
    weight_decay: Annotated[float, Range(at_least=0)] = 0.0
    batch_size: Annotated[int, Range(at_least=1)] = 64
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0
