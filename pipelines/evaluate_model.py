"""One model that is there already, from the registry or a folder, against the attacks."""

from kfp import dsl

from components.data.component import prepare_data
from components.evaluation.component import evaluate_robustness
from components.registry.component import fetch_model


@dsl.pipeline(name="evaluate-model", description="Fetch a model, attack it, report.")
def evaluate_model(data: str, fetch: str, evaluation: str) -> None:
    """Attack a registered model, or the one in a checkpoint folder.

    Every argument is the section of a recipe of that name, as JSON text.
    """
    prepared = prepare_data(step="prepare-data", config=data).set_display_name("prepare-data")
    fetched = fetch_model(step="fetch-model", config=fetch).set_display_name("fetch-model")
    # Which version an alias means is no input that a cache could know.
    fetched.set_caching_options(False)
    measured = evaluate_robustness(
        step="evaluate-attacks",
        config=evaluation,
        data=prepared.outputs["data"],
        model=fetched.outputs["model"],
    )
    measured.set_display_name("evaluate-attacks")
