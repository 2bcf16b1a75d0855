"""Recipe: one value that holds the settings of every step of a pipeline."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from components.config import Config
from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.pruning.config import PruningConfig
from components.registry.config import PromotionConfig
from components.study.config import StudyConfig
from components.training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one pipeline, each section those of a step.

    Attributes:
        pipeline: the entry of PIPELINES that the settings are for.
        about: what a reader should know first, in one line.
    """

    pipeline: ClassVar[str]
    about: str

    def sections(self) -> dict[str, Config]:
        """Give the sections by name, in the order of the steps."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Config)}

    def with_sections(self, changes: Mapping[str, Config]) -> Self:
        """Give the recipe with other sections in place of those of the same names."""
        return dataclasses.replace(self, **changes)

    def arguments(self) -> dict[str, Any]:
        """Give what the pipeline is called with: each section as JSON text."""
        return {name: section.to_json() for name, section in self.sections().items()}


@dataclass(frozen=True, kw_only=True)
class TrainRobustRecipe(Recipe):
    """Settings of the pipeline train_robust; each section is the argument of that name."""

    pipeline: ClassVar[str] = "train_robust"
    data: DataConfig
    stage_one: TrainingConfig
    stage_two: TrainingConfig
    adversarial: TrainingConfig
    pruning: PruningConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig

    def __post_init__(self) -> None:
        _check_first_stage(self.stage_one)


@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe(Recipe):
    """Settings of the pipeline fine_tune; each section is the argument of that name."""

    pipeline: ClassVar[str] = "fine_tune"
    data: DataConfig
    stage_one: TrainingConfig
    stage_two: TrainingConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig

    def __post_init__(self) -> None:
        _check_first_stage(self.stage_one)


@dataclass(frozen=True, kw_only=True)
class StudyRecipe(Recipe):
    """Settings of the pipeline compare_trainings.

    Attributes:
        arms: the trainings to compare, by name; each is a section of that name.
        study: how often each is repeated.
    """

    pipeline: ClassVar[str] = "compare_trainings"
    data: DataConfig
    arms: Mapping[str, TrainingConfig]
    study: StudyConfig
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        for name in self.arms:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or hasattr(self, name):
                raise ValueError(f"an arm needs a free name of a-z, 0-9 and _, got {name!r}")
        if any(arm.seed for arm in self.arms.values()):
            raise ValueError("the seeds of all arms are study.seeds, so leave their own out")

    def sections(self) -> dict[str, Config]:
        """Give the sections by name, each arm as one of its own."""
        rest = {"study": self.study, "evaluation": self.evaluation}
        return {"data": self.data, **self.arms, **rest}

    def with_sections(self, changes: Mapping[str, Config]) -> Self:
        """Give the recipe with other sections in place of those of the same names."""
        arms = {**self.arms, **{name: changes[name] for name in changes.keys() & self.arms}}
        rest = {name: value for name, value in changes.items() if name not in self.arms}
        return dataclasses.replace(self, **{"arms": arms, **rest})

    def arguments(self) -> dict[str, Any]:
        """Give what the pipeline is called with: every arm once for each seed."""
        trainings = [
            {
                "arm": name,
                "seed": str(seed),
                "train": f"train-{_hyphens(name)}-{seed}",
                "evaluate": f"evaluate-{_hyphens(name)}-{seed}",
                "config": dataclasses.replace(arm, seed=seed).to_json(),
            }
            for seed in self.study.seeds
            for name, arm in self.arms.items()
        ]
        texts = {name: self.sections()[name].to_json() for name in ("data", "study", "evaluation")}
        return {**texts, "trainings": trainings}


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _check_first_stage(stage: TrainingConfig) -> None:
    if stage.backbone is None:
        raise ValueError("stage_one.backbone is needed: the first stage has no initial model")
