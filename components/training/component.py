"""Door train_model: one training stage as a Kubeflow step."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def train_model(
    step: str,
    config: str,
    data: Input[Dataset],
    model: Output[Model],
    metrics: Output[Metrics],
    initial_model: Input[Model] = None,
) -> None:
    """Train for one stage and keep its best epoch.

    Args:
        step: name of the step in the run graph.
        config: a TrainingConfig as JSON text.
        data: shards.
        model: receives the checkpoint.
        metrics: receives the figures of the kept epoch.
        initial_model: checkpoint to start from.
    """
    from pathlib import Path

    from components import cluster, tracking
    from components.training.config import TrainingConfig
    from components.training.start import start_training

    settings, target = TrainingConfig.from_json(config), Path(model.path)
    initial = None if initial_model is None else Path(initial_model.path)
    with tracking.step_run(step, "train", settings, unsent=target) as run:
        kept = start_training(
            settings,
            data=Path(data.path),
            target=target,
            initial=initial,
            state=cluster.state_folder(step) or target / "state",
            run=run,
        )
        run.folder(target, "checkpoint")
    for name, value in kept.items():
        metrics.log_metric(name, value)
