"""The champion trained again, if there is anything new to learn, and held against its successor."""

from kfp import dsl

from components.data.component import prepare_data
from components.evaluation.component import evaluate_robustness
from components.registry.component import check_champion, fetch_model
from components.training.component import train_model
from pipelines.challenge import challenge


@dsl.pipeline(
    name="retrain",
    description="Unless nothing changed: train, attack, compare with the champion, promote.",
)
def retrain(
    data: str,
    renewal: str,
    training: str,
    onwards: str,
    champion: str,
    evaluation: str,
    promotion: str,
) -> None:
    """Train a registered model again on data or by settings that its champion has not seen.

    The champion is attacked once more, on the present images, for on those of its own time the two
    could not be compared.

    Arguments are the sections of a recipe of that name, as JSON text; ``onwards`` is ``training``
    for one that starts from the champion, and ``champion`` says which model that is.
    """

    def fetch() -> dsl.PipelineTask:
        task = fetch_model(step="fetch-champion", config=champion)
        return task.set_display_name("fetch-champion").set_caching_options(False)

    def attack(step: str, model: dsl.PipelineTask) -> dsl.PipelineTask:
        task = evaluate_robustness(
            step=step, config=evaluation, data=shards, model=model.outputs["model"]
        )
        return task.set_display_name(step)

    def decide(trained: dsl.PipelineTask, before: dsl.PipelineTask | None = None) -> None:
        trained.set_display_name("train")
        old = {"champion": attack("evaluate-champion", before).outputs["report"]} if before else {}
        measured = attack("evaluate-attacks", trained)
        challenge(promotion, trained.outputs["model"], measured.outputs["report"], **old)

    prepared = prepare_data(step="prepare-data", config=data).set_display_name("prepare-data")
    # The source may have changed, although its address has not.
    prepared.set_caching_options(False)
    shards = prepared.outputs["data"]
    checked = check_champion(
        step="check-champion", config=renewal, promotion=promotion, training=training, data=shards
    )
    checked.set_display_name("check-champion").set_caching_options(False)

    # What comes out of a branch cannot be joined again, so each goes on to its end.
    action = checked.outputs["Output"]
    with dsl.If(action == "first", name="first"):
        decide(train_model(step="train", config=training, data=shards))
    with dsl.If(action == "afresh", name="afresh"):
        decide(train_model(step="train", config=training, data=shards), fetch())
    with dsl.If(action == "onwards", name="onwards"):
        before = fetch()
        weights = before.outputs["model"]
        decide(
            train_model(step="train", config=onwards, data=shards, initial_model=weights), before
        )
