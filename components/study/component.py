"""Door tabulate_trainings: the reports of a study as one table, as a Kubeflow step."""

from typing import Dict, List  # noqa: UP035  (kfp reads these names)

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def tabulate_trainings(
    step: str,
    config: str,
    trainings: List[Dict[str, str]],  # noqa: UP006
    reports: Input[List[Artifact]],  # noqa: UP006
    table: Output[Artifact],
) -> None:
    """Put the reports of repeated trainings side by side, the naive number beside the honest one.

    Args:
        step: name of the step in the run graph.
        config: a StudyConfig as JSON text.
        trainings: ``arm``, ``seed`` and step name ``train`` of each.
        reports: evaluations of the trained models.
        table: receives table.json and table.html.
    """
    from pathlib import Path

    from components import tracking
    from components.study.config import StudyConfig
    from components.study.tabulate import save_table, tabulate

    settings = StudyConfig.from_json(config)
    with tracking.step_run(step, "study", settings) as run:
        target = Path(table.path)
        found = tabulate(trainings, [Path(report.path) for report in reports])
        save_table(found, target)
        run.metrics(found.figures())
        run.folder(target, "table")
