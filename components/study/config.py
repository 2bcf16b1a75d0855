"""What can be set when trainings are compared."""

from dataclasses import dataclass

from components.config import Config


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
