"""Trainings side by side: each repeated with several seeds, attacked, and put into one table."""

from typing import Dict, List  # noqa: UP035  (kfp reads these names)

from kfp import dsl

from components.data.component import prepare_data
from components.evaluation.component import evaluate_robustness
from components.study.component import tabulate_trainings
from components.training.component import train_model


@dsl.pipeline(
    name="compare-trainings",
    description="Train every arm of a study with every seed, attack the models, tabulate.",
)
def compare_trainings(
    data: str,
    trainings: List[Dict[str, str]],  # noqa: UP006
    study: str,
    evaluation: str,
) -> None:
    """Train the arms of a study and say what each withstands.

    Sections of the recipe come as JSON text; ``trainings`` has an item for each arm and seed, with
    the names of its steps and its settings as JSON text.
    """
    prepared = prepare_data(step="prepare-data", config=data).set_display_name("prepare-data")
    shards = prepared.outputs["data"]
    with dsl.ParallelFor(trainings, name="trainings") as item:
        trained = train_model(step=item.train, config=item.config, data=shards)
        trained.set_display_name("train")
        measured = evaluate_robustness(
            step=item.evaluate, config=evaluation, data=shards, model=trained.outputs["model"]
        )
        measured.set_display_name("evaluate")
    table = tabulate_trainings(
        step="tabulate",
        config=study,
        trainings=trainings,
        reports=dsl.Collected(measured.outputs["report"]),
    )
    table.set_display_name("tabulate")
