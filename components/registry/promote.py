"""Register a challenger, and make it champion if its verdict says so."""

import json
from pathlib import Path

from components.evaluation.report import load_report
from components.models.build import ModelSpec
from components.models.checkpoint import WORDS, hash_checkpoint
from components.registry.config import PromotionConfig
from components.registry.models import register, set_alias
from components.registry.verdict import load_verdict


def promote(settings: PromotionConfig, *, checkpoint: Path, report: Path, verdict: Path) -> str:
    """Register a model whatever the verdict, and let the verdict choose its alias.

    Args:
        settings: which registered model.
        checkpoint: folder of the model.
        report: folder of its evaluation.
        verdict: folder of its comparison with the champion.

    Returns:
        The version in the registry.

    Raises:
        ValueError: checkpoint, report and verdict are not about the same model.
        StaleVerdict: another version became champion since the comparison.
    """
    decided, (measured, _) = load_verdict(verdict), load_report(report)
    hashes = {
        "checkpoint": hash_checkpoint(checkpoint),
        "report": str(measured.model["checkpoint"]),
        "verdict": decided.challenger,
    }
    if len(set(hashes.values())) > 1:
        found = ", ".join(f"{what} {value:.12}" for what, value in hashes.items())
        raise ValueError(f"checkpoint, report and verdict must be about one model, got {found}")
    words = json.loads((checkpoint / WORDS).read_text(encoding="utf-8"))
    spec = ModelSpec.from_json(json.dumps(words["spec"]))
    version = register(
        settings.model_name,
        checkpoint=checkpoint,
        report=report,
        verdict=decided,
        image_shape=spec.image_shape,
    )
    set_alias(settings.model_name, version, decided)
    return version
