"""Register a challenger; make it champion if the rules say so, or a person who says why."""

import json
import tempfile
from pathlib import Path

from components.evaluation.report import load_report
from components.models.build import ModelSpec
from components.models.checkpoint import WORDS, hash_checkpoint
from components.registry.champions import StaleVerdict, crown, make_challenger, settle
from components.registry.config import PromotionConfig
from components.registry.models import Version, fetch_report, judge, register, tag_version
from components.registry.verdict import Verdict, load_verdict


def promote(settings: PromotionConfig, *, checkpoint: Path, report: Path, verdict: Path) -> str:
    """Register a model whatever the verdict, and let the verdict choose its alias.

    Args:
        settings: which registered model, and the rules it was judged by.
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
    name = settings.model_name
    version = register(
        settings,
        checkpoint=checkpoint,
        report=report,
        verdict=decided,
        image_shape=spec.image_shape,
    )
    if not decided.promoted:
        make_challenger(name, version)
        return version
    try:
        crown(
            name, version, expected=decided.champion_version, how="promotion", reason=f"{decided}"
        )
    except StaleVerdict:
        make_challenger(name, version)
        raise
    return version


def promote_version(settings: PromotionConfig, version: Version, *, override: str = "") -> Verdict:
    """Judge a version that is registered already, and make it champion if it may be.

    Args:
        settings: the rules.
        version: of the registered model.
        override: why it is to be champion whatever the rules say; stays as a tag for ever.

    Returns:
        What the rules say.

    Raises:
        ValueError: it is the champion already.
        StaleVerdict: another version became champion meanwhile.
    """
    with tempfile.TemporaryDirectory() as folder:
        verdict = judge(settings, fetch_report(version.uri, Path(folder)))
    if verdict.champion_version == version.number:
        settle(version.name)  # where a hand has moved the alias, or a process died
        raise ValueError(f"{version.name} {version.number} is the champion already")
    tags = {"verdict": str(verdict)}
    if verdict.promoted or override:
        reign = crown(
            version.name,
            version.number,
            expected=verdict.champion_version,
            how="promotion" if verdict.promoted else "override",
            reason=str(verdict) if verdict.promoted else override,
        )
        if not verdict.promoted:  # a number of its own, so that no later one takes its place
            tags[f"override.{reign.number}"] = override
    tag_version(version, tags)
    return verdict
