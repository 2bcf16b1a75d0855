"""Doors of the registry: its gate, what it has for other steps, and whether to train again."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components import images


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def compare_models(
    step: str,
    config: str,
    report: Input[Artifact],
    verdict: Output[Artifact],
    champion: Input[Artifact] = None,
) -> None:
    """Compare a model with the registry's champion.

    Args:
        step: name of the step in the run graph.
        config: a PromotionConfig as JSON text.
        report: evaluation of the challenger.
        verdict: receives verdict.json.
        champion: evaluation of the champion on the challenger's images; without it, the one it was
            registered with counts.
    """
    from pathlib import Path

    from components import tracking
    from components.registry.config import PromotionConfig
    from components.registry.models import judge
    from components.registry.verdict import save_verdict

    settings = PromotionConfig.from_json(config)
    with tracking.step_run(step, "promotion", settings) as run:
        target = Path(verdict.path)
        again = None if champion is None else Path(champion.path)
        decided = judge(settings, Path(report.path), again)
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


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def fetch_model(step: str, config: str, model: Output[Model]) -> None:
    """Fetch a registered model, or one that lies in a folder.

    Args:
        step: name of the step in the run graph.
        config: a FetchConfig as JSON text.
        model: receives the checkpoint.
    """
    from pathlib import Path

    from components import tracking
    from components.registry.config import FetchConfig
    from components.registry.fetch import fetch

    settings = FetchConfig.from_json(config)
    with tracking.step_run(step, "fetch", settings):
        fetch(settings, Path(model.path))


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def check_champion(
    step: str,
    config: str,
    promotion: str,
    training: str,
    data: Input[Dataset],
    renewal: Output[Artifact],
) -> str:
    """Ask whether there is anything to learn that the champion has not learnt already.

    Args:
        step: name of the step in the run graph.
        config: a RenewalConfig as JSON text.
        promotion: a PromotionConfig as JSON text, which names the registered model.
        training: a TrainingConfig as JSON text, with a backbone.
        data: shards.
        renewal: receives renewal.json.

    Returns:
        ``nothing``, ``first``, ``afresh`` or ``onwards``.
    """
    from pathlib import Path

    from components import tracking
    from components.data.index import read_index
    from components.registry.config import PromotionConfig, RenewalConfig
    from components.registry.novelty import decide_renewal
    from components.registry.renewal import save_renewal
    from components.training.config import TrainingConfig

    settings = RenewalConfig.from_json(config)
    with tracking.step_run(step, "renewal", settings) as run:
        target = Path(renewal.path)
        decided = decide_renewal(
            settings,
            PromotionConfig.from_json(promotion).model_name,
            TrainingConfig.from_json(training),
            read_index(Path(data.path)),
        )
        save_renewal(decided, target)
        run.folder(target, "renewal")
        print(decided)
    return decided.action
