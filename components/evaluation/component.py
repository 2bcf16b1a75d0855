"""Door evaluate_robustness: attacks on one model as a Kubeflow step."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def evaluate_robustness(
    step: str,
    config: str,
    data: Input[Dataset],
    model: Input[Model],
    report: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Attack a model on the test split and say whether the number can be believed.

    Args:
        step: name of the step in the run graph.
        config: an EvaluationConfig as JSON text.
        data: shards.
        model: checkpoint.
        report: receives report.json, samples.parquet and report.html.
        metrics: receives the accuracies.
    """
    from pathlib import Path

    from components import cluster, tracking
    from components.evaluation.config import EvaluationConfig
    from components.evaluation.evaluate import evaluate

    settings = EvaluationConfig.from_json(config)
    with tracking.step_run(step, "evaluate", settings) as run:
        target = Path(report.path)
        measured = evaluate(
            settings,
            data=Path(data.path),
            checkpoint=Path(model.path),
            target=target,
            state=cluster.state_folder(step),
            run=run,
        )
        run.metrics(measured.figures())
        run.folder(target, "report")
    for name, value in measured.figures().items():
        metrics.log_metric(name, value)
    report.metadata["trust"] = measured.trust
