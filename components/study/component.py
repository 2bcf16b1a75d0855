"""Doors tabulate_trainings, measure_modes, tabulate_modes: studies measured and put into tables."""

from typing import Dict, List  # noqa: UP035  (kfp reads these names)

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

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


@dsl.component(base_image=images.GPU, install_kfp_package=False)
def measure_modes(
    step: str,
    config: str,
    evaluation: str,
    data: Input[Dataset],
    source: Input[Model],
    standard: Input[Model],
    bp: Input[Model],
    at: Input[Model],
    at_vs: Input[Model],
    at_bnn: Input[Model],
    pretrained_at: Input[Model],
    admm: Input[Model],
    trades: Input[Model],
    anp: Input[Model],
    anp_vs: Input[Model],
    measured: Output[Artifact],
) -> None:
    """Measure the models of all modes of ANP-VS as published, and attack them honestly.

    Args:
        step: name of the step in the run graph.
        config: a ReproductionConfig as JSON text.
        evaluation: an EvaluationConfig as JSON text.
        data: shards.
        source: checkpoint on which black-box images are crafted.
        standard: checkpoint of that mode, as are all those after it.
        measured: receives a folder for each mode.
    """
    from pathlib import Path

    from components import tracking
    from components.evaluation.config import EvaluationConfig
    from components.study.config import ReproductionConfig
    from components.study.modes import measure_modes as measure

    models = {"standard": standard, "bp": bp, "at": at, "at_vs": at_vs, "at_bnn": at_bnn}
    models |= {"pretrained_at": pretrained_at, "admm": admm, "trades": trades}
    models |= {"anp": anp, "anp_vs": anp_vs}
    settings = ReproductionConfig.from_json(config)
    with tracking.step_run(step, "study", settings) as run:
        measure(
            settings,
            EvaluationConfig.from_json(evaluation),
            data=Path(data.path),
            models={mode: Path(model.path) for mode, model in models.items()},
            source=Path(source.path),
            target=Path(measured.path),
            run=run,
        )
        run.folder(Path(measured.path), "measured")


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def tabulate_modes(
    step: str,
    config: str,
    measured: Input[List[Artifact]],  # noqa: UP006
    table: Output[Artifact],
) -> None:
    """Put the modes of ANP-VS into one table, beside the published numbers.

    Args:
        step: name of the step in the run graph.
        config: a ReproductionConfig as JSON text.
        measured: what `measure_modes` found, for each seed.
        table: receives reproduction.json and reproduction.html.
    """
    from pathlib import Path

    from components import tracking
    from components.study.config import ReproductionConfig
    from components.study.reproduction import reproduce, save_reproduction
    from components.study.reproduction_page import PAGE, write_reproduction_page

    settings = ReproductionConfig.from_json(config)
    with tracking.step_run(step, "study", settings) as run:
        target = Path(table.path)
        found = reproduce(settings.table, [Path(folder.path) for folder in measured])
        save_reproduction(found, target)
        write_reproduction_page(found, target / PAGE)
        run.metrics(found.figures())
        run.folder(target, "table")
