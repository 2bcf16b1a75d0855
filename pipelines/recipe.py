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
from components.registry.config import FetchConfig, PromotionConfig, RenewalConfig
from components.study.config import ReproductionConfig, StudyConfig
from components.training.config import TrainingConfig

_OTHER_SEEDS = 1_000_003  # from a seed to that of its source model


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
        fields: dict[str, Any] = dict(changes)
        return dataclasses.replace(self, **fields)

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
class RetrainRecipe(Recipe):
    """Settings of the pipeline retrain."""

    pipeline: ClassVar[str] = "retrain"
    data: DataConfig
    renewal: RenewalConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig

    def __post_init__(self) -> None:
        if self.training.backbone is None:
            raise ValueError("training.backbone is needed: there may be no champion to start from")

    def arguments(self) -> dict[str, Any]:
        """Give what the pipeline is called with: the training also without a backbone of its own.

        A model that training starts from brings its backbone along, maybe a pruned one.
        """
        champion = FetchConfig(model=f"models:/{self.promotion.model_name}@champion")
        onwards = dataclasses.replace(self.training, backbone=None)
        more = {"onwards": onwards.to_json(), "champion": champion.to_json()}
        return {**super().arguments(), **more}


@dataclass(frozen=True, kw_only=True)
class EvaluateModelRecipe(Recipe):
    """Settings of the pipeline evaluate_model; each section is the argument of that name."""

    pipeline: ClassVar[str] = "evaluate_model"
    data: DataConfig
    fetch: FetchConfig
    evaluation: EvaluationConfig


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
        fields: dict[str, Any] = {n: value for n, value in changes.items() if n not in self.arms}
        fields["arms"] = {name: changes.get(name, arm) for name, arm in self.arms.items()}
        return dataclasses.replace(self, **fields)

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


@dataclass(frozen=True, kw_only=True)
class ReproduceAnpVsRecipe(Recipe):
    """Settings of the pipeline reproduce_anp_vs: a section for each mode of the published tables.

    Attributes:
        source: the model on which black-box images are crafted.
        standard: where prunings and the pretrained mode start from.
        reproduction: the published columns, and how often everything is repeated.
    """

    pipeline: ClassVar[str] = "reproduce_anp_vs"
    data: DataConfig
    source: TrainingConfig
    standard: TrainingConfig
    at: TrainingConfig
    at_vs: TrainingConfig
    at_bnn: TrainingConfig
    trades: TrainingConfig
    pretrained_at: TrainingConfig
    bp: PruningConfig
    admm: PruningConfig
    anp: PruningConfig
    anp_vs: PruningConfig
    reproduction: ReproductionConfig
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        for name in ("source", "standard", "at", "at_vs", "at_bnn", "trades"):
            if getattr(self, name).backbone is None:
                raise ValueError(f"{name}.backbone is needed: it has no initial model")
        if any(section.seed for section in self._modes().values()):
            raise ValueError("the seeds of all modes are reproduction.seeds, leave their own out")

    def arguments(self) -> dict[str, Any]:
        """Give what the pipeline is called with: every mode's settings and step, for each seed."""
        repetitions = []
        for seed in self.reproduction.seeds:
            item = {"measure_step": f"measure-{seed}"}
            for name, section in self._modes().items():
                # The source must be no model that is measured, of whatever seed.
                own = (seed + _OTHER_SEEDS) % 2**32 if name == "source" else seed
                item[name] = dataclasses.replace(section, seed=own).to_json()
                verb = "prune" if isinstance(section, PruningConfig) else "train"
                item[f"{name}_step"] = f"{verb}-{_hyphens(name)}-{seed}"
            repetitions.append(item)
        names = ("data", "reproduction", "evaluation")
        texts = {name: self.sections()[name].to_json() for name in names}
        return {**texts, "repetitions": repetitions}

    def _modes(self) -> dict[str, TrainingConfig | PruningConfig]:
        sections = self.sections().items()
        return {n: s for n, s in sections if isinstance(s, (TrainingConfig, PruningConfig))}


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _check_first_stage(stage: TrainingConfig) -> None:
    if stage.backbone is None:
        raise ValueError("stage_one.backbone is needed: the first stage has no initial model")
