"""Door prune_model: gates, and the narrower network they leave, as a Kubeflow step."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def prune_model(
    step: str,
    config: str,
    data: Input[Dataset],
    model: Input[Model],
    pruned: Output[Model],
    metrics: Output[Metrics],
) -> None:
    """Prune a model under attack and keep the narrower network.

    Args:
        step: name of the step in the run graph.
        config: a `PruningConfig` as JSON text.
        data: folder of shards.
        model: checkpoint of a trained model.
        pruned: receives the checkpoint of the narrower one.
        metrics: receives sparsity, cost ratios and units per layer.
    """
    from pathlib import Path

    from components import cluster, tracking
    from components.pruning.config import PruningConfig
    from components.pruning.prune import prune

    settings = PruningConfig.from_json(config)
    initial, target = Path(model.path), Path(pruned.path)
    with tracking.step_run(step, "prune", settings) as run:
        figures = prune(
            settings,
            data=Path(data.path),
            initial=initial,
            target=target,
            state=cluster.state_folder(step) or target / "state",
            run=run,
        )
        run.metrics(figures)
        run.folder(target, "checkpoint")
    for name, value in figures.items():
        metrics.log_metric(name, value)
