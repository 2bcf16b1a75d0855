"""Two stages and an honest look at both: clean training, then fine-tuning behind a defence."""

from kfp import dsl

from components.data.component import prepare_data
from components.evaluation.component import evaluate_robustness
from components.training.component import train_model
from pipelines.challenge import challenge


@dsl.pipeline(
    name="fine-tune",
    description="Train in two stages, attack both, compare, promote.",
)
def fine_tune(data: str, stage_one: str, stage_two: str, evaluation: str, promotion: str) -> None:
    """Train a classifier, fine-tune it with its defences on, and let it challenge the champion.

    Every argument is the section of a recipe of that name, as JSON text.
    """
    prepared = prepare_data(step="prepare-data", config=data).set_display_name("prepare-data")
    shards = prepared.outputs["data"]

    first = train_model(step="train-stage-one", config=stage_one, data=shards)
    first.set_display_name("train-stage-one")
    second = train_model(
        step="fine-tune-stage-two",
        config=stage_two,
        data=shards,
        initial_model=first.outputs["model"],
    )
    second.set_display_name("fine-tune-stage-two")

    before = evaluate_robustness(
        step="evaluate-stage-one", config=evaluation, data=shards, model=first.outputs["model"]
    )
    before.set_display_name("evaluate-stage-one")
    final = evaluate_robustness(
        step="evaluate-attacks", config=evaluation, data=shards, model=second.outputs["model"]
    )
    final.set_display_name("evaluate-attacks")

    challenge(promotion, second.outputs["model"], final.outputs["report"])
