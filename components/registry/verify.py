"""Verify: a registered version is what was registered, and its numbers can be had again."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate_candidate, read_candidate, read_dataset
from components.evaluation.report import RobustnessReport, load_report
from components.models.checkpoint import hash_checkpoint
from components.registry.compare import Evaluation, judge_likeness
from components.registry.models import (
    HASH,
    Version,
    facts_of,
    fetch_checkpoint,
    fetch_report,
    hash_report,
)
from components.registry.verdict import Rule
from components.tracking import UNTRACKED, Run

_NAMES = ("the repetition", "the registered evaluation")
_EXACT = ("label", "prediction", "clean", "robust", "fallen_to")


def verify(version: Version, data: Path, run: Run = UNTRACKED) -> Iterator[Rule]:
    """Ask of a version, one thing after the other, whether it is what it is said to be.

    The weights and the files of the report are compared with the hashes in the registry, the tags
    with the report; then the model is attacked once more with the recorded settings and seeds, and
    every image compared. What fails ends the questions that depend on it.

    Args:
        version: of a registered model.
        data: folder of the shards that it was measured on.
        run: gets the progress.

    Yields:
        What was asked, whether it holds, and what was found.

    Raises:
        ValueError: there are no shards in the folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = fetch_checkpoint(version.uri, Path(folder) / "model")
        report = fetch_report(version.uri, Path(folder) / "measured")
        stored = (_check_weights(version, checkpoint), *_check_files(version, report))
        yield from stored
        if not all(rule.passed for rule in stored):
            return
        recorded = load_report(report)
        told = (_check_tags(version, recorded[0]), _check_repeatable(recorded[0]))
        yield from told
        if not all(rule.passed for rule in told):
            return
        settings = EvaluationConfig.from_json(json.dumps(dict(recorded[0].settings)))
        dataset = read_dataset(data, num_images=settings.num_images)
        same_data = _check_data(recorded[0], str(dataset.facts["fingerprint"]))
        yield same_data
        if not same_data.passed:
            return
        target = Path(folder) / "repeated"
        evaluate_candidate(read_candidate(checkpoint), dataset, settings, target=target, run=run)
        yield from _compare(load_report(target), recorded)


def _check_weights(version: Version, checkpoint: Path) -> Rule:
    expected = version.tags.get("checkpoint", "")
    try:
        found = hash_checkpoint(checkpoint)
    except (OSError, ValueError, KeyError) as error:
        return _rule("weights", f"the checkpoint cannot be read: {error}")
    if found != expected:
        return _rule(
            "weights", f"the weights have the hash {found:.12}, registered was {expected:.12}"
        )
    return _rule("weights", "", f"the weights are those registered, {found:.12}")


def _check_files(version: Version, report: Path) -> Iterator[Rule]:
    expected = {
        key.removeprefix(HASH): value for key, value in version.tags.items() if key.startswith(HASH)
    }
    if not expected:
        yield _rule("report", "it was registered without hashes of its report")
    found = hash_report(report)
    for name, text in sorted(expected.items()):
        wrong = "" if found.get(name) == text else f"{name} is not the file that was registered"
        yield _rule(name, wrong, f"{name} is the file that was registered")


def _check_tags(version: Version, report: RobustnessReport) -> Rule:
    differing = [
        f"{key} is {version.tags.get(key)} in the registry and {text} in the report"
        for key, text in facts_of(report).items()
        if version.tags.get(key) != text
    ]
    return _rule("tags", "; ".join(differing), "the tags say what the report says")


def _check_repeatable(report: RobustnessReport) -> Rule:
    wrong = ""
    if any(attack.view.startswith("transfer/") for attack in report.attacks):
        wrong = "images made on other models took part, which are not registered with it"
    if any(attack.left_out for attack in report.attacks):
        wrong = "time ran out during the evaluation, so that it cannot be repeated"
    return _rule("settings", wrong, "all that the evaluation depends on is on record")


def _check_data(report: RobustnessReport, fingerprint: str) -> Rule:
    expected = str(report.data["fingerprint"])
    wrong = f"these shards hold the data {fingerprint:.12}, measured was on {expected:.12}"
    return _rule(
        "data",
        wrong if fingerprint != expected else "",
        f"the shards hold the data it was measured on, {expected:.12}",
    )


def _compare(repeated: Evaluation, recorded: Evaluation) -> Iterator[Rule]:
    yield from (rule for rule in judge_likeness(repeated, recorded, _NAMES) if not rule.passed)
    yield _compare_images(repeated, recorded)
    new, old = facts_of(repeated[0]), facts_of(recorded[0])
    wrong = [f"{key} is {new[key]}, recorded was {old[key]}" for key in new if new[key] != old[key]]
    yield _rule("figures", "; ".join(wrong), "every figure came out as recorded")


def _compare_images(repeated: Evaluation, recorded: Evaluation) -> Rule:
    new, old = (samples.sort_by("id") for _, samples in (repeated, recorded))
    if set(new.column_names) != set(old.column_names) or new["id"] != old["id"]:
        return _rule("images", "the repetition has other images or attacks than were recorded")
    names = [n for n in new.column_names if n in _EXACT or n.startswith("robust/")]
    changed = np.zeros(len(new), dtype=bool)
    for name in names:
        changed |= np.asarray(new[name].to_pylist()) != np.asarray(old[name].to_pylist())
    if changed.any():
        return _rule(
            "images",
            f"{changed.sum()} of {len(new)} images ended otherwise than recorded, the first is "
            f"{new['id'][int(changed.argmax())].as_py():.12}{_elsewhere(repeated, recorded)}",
        )
    if new.select(old.column_names) == old:
        return _rule("images", "", f"bit for bit: all {len(new)} images ended as recorded")
    largest = max(_largest_change(new, old, name) for name in ("margin", "norm", "distance"))
    return _rule(
        "images",
        "",
        f"all {len(new)} images ended as recorded, with margins and sizes within {largest:.2g}"
        f"{_elsewhere(repeated, recorded)}",
    )


def _largest_change(new: pa.Table, old: pa.Table, name: str) -> float:
    if name not in new.column_names:
        return 0.0
    after, before = (table[name].to_numpy() for table in (new, old))
    finite = np.isfinite(before) & np.isfinite(after)
    return float(np.abs(after[finite] - before[finite]).max(initial=0.0))


def _elsewhere(repeated: Evaluation, recorded: Evaluation) -> str:
    """Name what has changed around the model, which may be why the numbers have."""
    new, old = repeated[0].versions, recorded[0].versions
    words = [f"{name} {new.get(name)} instead of {old.get(name)}" for name in old]
    changed = [words[i] for i, name in enumerate(old) if new.get(name) != old.get(name)]
    return f" ({', '.join(changed)})" if changed else ""


def _rule(name: str, wrong: str, right: str = "") -> Rule:
    return Rule(name=name, passed=not wrong, reason=wrong or right)
