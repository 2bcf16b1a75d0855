"""What can be set when trainings are compared."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, OneOf, Range


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """How often each training is repeated.

    Attributes:
        seeds: every arm is trained once with each; they stand in place of the seed of its settings.
    """

    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different numbers, got {list(self.seeds)}")
        if min(self.seeds) < 0 or max(self.seeds) >= 2**32:
            raise ValueError(f"seeds must lie between 0 and 2**32 - 1, got {list(self.seeds)}")


@dataclass(frozen=True, kw_only=True)
class ReproductionConfig(StudyConfig):
    """How the published columns of a table are measured.

    Attributes:
        table: the published one, whose numbers stand beside ours.
        attack: of the white-box columns, and of the black-box ones on the source model.
        num_images: how many test images are attacked for them, the first of the split; 0 takes
            all, as clean accuracy does. The evaluation has a number of its own.
        batch_size: images per attack.
    """

    table: Annotated[str, OneOf("mnist", "cifar10", "cifar100")]
    attack: Choice
    num_images: Annotated[int, Range(at_least=0)] = 0
    batch_size: Annotated[int, Range(at_least=1)] = 256
