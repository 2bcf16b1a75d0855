"""Doors compare_models and promote_model: the registry's gate as Kubeflow steps."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def compare_models(
    step: str, config: str, report: Input[Artifact], verdict: Output[Artifact]
) -> None:
    """Compare a model with the registry's champion.

    Args:
        step: name of the step in the run graph.
        config: a PromotionConfig as JSON text.
        report: evaluation of the challenger.
        verdict: receives verdict.json.
    """
    from pathlib import Path

    from components import tracking
    from components.registry.config import PromotionConfig
    from components.registry.models import judge
    from components.registry.verdict import save_verdict

    settings = PromotionConfig.from_json(config)
    with tracking.step_run(step, "promotion", settings) as run:
        target = Path(verdict.path)
        decided = judge(settings, Path(report.path))
        save_verdict(decided, target)
        run.folder(target, "verdict")
        print(decided)
    verdict.metadata["promoted"] = decided.promoted


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def promote_model(
    step: str,
    config: str,
    model: Input[Model],
    report: Input[Artifact],
    verdict: Input[Artifact],
) -> str:
    """Register a model, and make it champion if the verdict says so.

    Args:
        step: name of the step in the run graph.
        config: a PromotionConfig as JSON text.
        model: checkpoint of the challenger.
        report: its evaluation.
        verdict: of comparing it with the champion.

    Returns:
        The version in the registry.
    """
    from pathlib import Path

    from components import tracking
    from components.registry.config import PromotionConfig
    from components.registry.promote import promote

    settings = PromotionConfig.from_json(config)
    with tracking.step_run(step, "promotion", settings):
        return promote(
            settings,
            checkpoint=Path(model.path),
            report=Path(report.path),
            verdict=Path(verdict.path),
        )
