"""Recipe: one value that holds the settings of every step of a pipeline."""

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

from components.config import Config
from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.pruning.config import PruningConfig
from components.registry.config import PromotionConfig
from components.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class TrainRobustRecipe:
    """Settings of the pipeline train_robust; each section is the argument of that name."""

    about: str
    data: DataConfig
    stage_one: TrainingConfig
    stage_two: TrainingConfig
    adversarial: TrainingConfig
    pruning: PruningConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig

    def __post_init__(self) -> None:
        if self.stage_one.backbone is None:
            raise ValueError("stage_one.backbone is needed: the first stage has no initial model")


Recipe: TypeAlias = TrainRobustRecipe


def sections(recipe: Recipe) -> dict[str, Config]:
    """Give the sections of a recipe by name, in the order of the steps."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {name: value for name, value in values.items() if isinstance(value, Config)}


def arguments(recipe: Recipe) -> dict[str, str]:
    """Give what the recipe's pipeline is called with: each section as JSON text."""
    return {name: section.to_json() for name, section in sections(recipe).items()}
