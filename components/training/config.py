"""What can be set when a model is trained for one stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from components.config import Choice, Config, OneOf, Range

_WITHOUT_ATTACK = ("cross_entropy", "cutmix_and_mixup")
_WRAPPED = ("objective", "first", "then")  # options of objectives that hold other ones


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
        optimizer: an entry of OPTIMIZERS, the update rule.
        learning_rate: its peak.
        head_learning_rate: peak for the head, the part of the backbone that holds what depends on
            the classes, or what a defence has in its place; None takes the same for all.
        schedule: an entry of SCHEDULES, how the learning rate moves.
        warmup_epochs: epochs over which the learning rate rises from zero, along a straight line,
            to what the schedule says; with a fraction, if need be.
        weight_decay: on all parameters.
        clip_norm: gradients longer than that are shortened to it; 0 leaves them as they are.
        average_decay: of the exponential moving average of the weights, which is validated and
            kept in their place; 0 keeps no average.
        patience: epochs without a better one after which training ends; 0 goes through all.
        collapse_epsilon: radius in linf at which, after each epoch, one step of attack is compared
            with several; a model that has learnt to withstand just the one step it is trained with
            ends its training with the best epoch before. 0 does not look; nor is there anything to
            see where the objective does not attack.
        precision: of the forward and backward passes that train: ``float32``, or ``bfloat16`` where
            autocast holds it safe. Attacks have the precision that the objective names.
        processes: that share every batch on one machine; 0 starts one for each accelerator, or one
            on the CPU. Where torchrun or several nodes say how many there are, 0 or that number.
        state_seconds: how often the state of training is kept within an epoch.
        batch_size: images per step.
        seed: of initial weights, shuffling, augmentation and attacks.
    """

    backbone: Choice | None = None
    defences: tuple[Choice, ...] = ()
    objective: Choice
    augmentations: tuple[Choice, ...] = ()
    selection: Choice | None = None
    epochs: Annotated[int, Range(at_least=0)] = 20
    optimizer: Choice = field(default_factory=lambda: {"name": "adam"})
    learning_rate: Annotated[float, Range(above=0)] = 1e-3
    head_learning_rate: Annotated[float, Range(above=0)] | None = None
    schedule: Choice = field(default_factory=lambda: {"name": "cosine"})
    warmup_epochs: Annotated[float, Range(at_least=0)] = 0.0
    weight_decay: Annotated[float, Range(at_least=0)] = 0.0
    clip_norm: Annotated[float, Range(at_least=0)] = 0.0
    average_decay: Annotated[float, Range(at_least=0, below=1)] = 0.0
    patience: Annotated[int, Range(at_least=0)] = 0
    collapse_epsilon: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    precision: Annotated[str, OneOf("float32", "bfloat16")] = "float32"
    processes: Annotated[int, Range(at_least=0)] = 0
    state_seconds: Annotated[float, Range(at_least=0)] = 300.0
    batch_size: Annotated[int, Range(at_least=1)] = 64
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.collapse_epsilon and not _attacks(self.objective):
            raise ValueError(
                f"collapse_epsilon must be 0 with {self.objective['name']!r}, which does not attack"
            )


def _attacks(objective: Any) -> bool:
    """Say whether an objective attacks, or one that it wraps."""
    options = objective if isinstance(objective, Mapping) else {"name": objective}
    wrapped = [options[key] for key in _WRAPPED if key in options]
    if wrapped:
        return any(_attacks(each) for each in wrapped)
    if options.get("name") == "restoration":  # without an attack it adds noise
        return options.get("attack") is not None
    return options.get("name") not in _WITHOUT_ATTACK
