"""The whole story on one page: from images to a champion that withstands attack."""

from kfp import dsl

from components.data.component import prepare_data
from components.evaluation.component import evaluate_robustness
from components.pruning.component import prune_model
from components.training.component import train_model
from pipelines.challenge import challenge


@dsl.pipeline(
    name="train-robust",
    description="Train in three stages, prune, attack every stage, compare, promote.",
)
def train_robust(
    data: str,
    stage_one: str,
    stage_two: str,
    adversarial: str,
    pruning: str,
    evaluation: str,
    promotion: str,
) -> None:
    """Train a robust classifier and let it challenge the champion.

    Every argument is the section of a recipe of that name, as JSON text.
    """

    def attack(step: str, model: dsl.PipelineTask, output: str = "model") -> dsl.PipelineTask:
        task = evaluate_robustness(
            step=step, config=evaluation, data=shards, model=model.outputs[output]
        )
        return task.set_display_name(step)

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
    hardened = train_model(
        step="adversarial-training",
        config=adversarial,
        data=shards,
        initial_model=second.outputs["model"],
    )
    hardened.set_display_name("adversarial-training")
    pruned = prune_model(step="prune", config=pruning, data=shards, model=hardened.outputs["model"])
    pruned.set_display_name("prune")

    attack("evaluate-stage-one", first)
    attack("evaluate-stage-two", second)
    attack("evaluate-adversarial", hardened)
    final = attack("evaluate-attacks", pruned, "pruned")

    challenge(promotion, pruned.outputs["pruned"], final.outputs["report"])
