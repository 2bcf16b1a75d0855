"""ANP-VS and all that it is compared with: trained, pruned, measured and put into one table."""

from typing import Any, Dict, List  # noqa: UP035  (kfp reads these names)

from kfp import dsl

from components.data.component import prepare_data
from components.pruning.component import prune_model
from components.study.component import measure_modes, tabulate_modes
from components.training.component import train_model

_FROM_SCRATCH = ("source", "at", "at_vs", "at_bnn", "trades")
_PRUNED = ("bp", "admm", "anp", "anp_vs")


@dsl.pipeline(
    name="reproduce-anp-vs",
    description="Train and prune every mode of ANP-VS, measure them as published and honestly.",
)
def reproduce_anp_vs(
    data: str,
    repetitions: List[Dict[str, str]],  # noqa: UP006
    reproduction: str,
    evaluation: str,
) -> None:
    """Reproduce a table of ANP-VS.

    Sections of the recipe come as JSON text; ``repetitions`` has an item for each seed, with every
    mode's settings as JSON text and the names of its steps.
    """
    prepared = prepare_data(step="prepare-data", config=data).set_display_name("prepare-data")
    shards = prepared.outputs["data"]
    with dsl.ParallelFor(repetitions, name="seeds", parallelism=1) as item:

        def train(mode: str, **initial: Any) -> dsl.PipelineTask:
            step, config = getattr(item, f"{mode}_step"), getattr(item, mode)
            task = train_model(step=step, config=config, data=shards, **initial)
            return task.set_display_name(f"train-{mode.replace('_', '-')}")

        def prune(mode: str) -> dsl.PipelineTask:
            step, config = getattr(item, f"{mode}_step"), getattr(item, mode)
            task = prune_model(
                step=step, config=config, data=shards, model=standard.outputs["model"]
            )
            return task.set_display_name(f"prune-{mode.replace('_', '-')}")

        standard = train("standard")
        pretrained = train("pretrained_at", initial_model=standard.outputs["model"])
        trained = {mode: train(mode).outputs["model"] for mode in _FROM_SCRATCH}
        pruned = {mode: prune(mode).outputs["pruned"] for mode in _PRUNED}
        measured = measure_modes(
            step=item.measure_step,
            config=reproduction,
            evaluation=evaluation,
            data=shards,
            standard=standard.outputs["model"],
            pretrained_at=pretrained.outputs["model"],
            **trained,
            **pruned,
        )
        measured.set_display_name("measure")
    table = tabulate_modes(
        step="tabulate", config=reproduction, measured=dsl.Collected(measured.outputs["measured"])
    )
    table.set_display_name("tabulate")
