"""read_entries, measure_missing: versions with what is known of them, and what is not yet."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate_candidate, read_candidate, read_dataset
from components.evaluation.report import REPORT, RobustnessReport, load_report
from components.evaluation.summarise import Dataset
from components.registry.compare import judge_likeness
from components.registry.comparison import Entry
from components.registry.models import (
    Version,
    fetch_checkpoint,
    fetch_report,
    fetch_words,
    find_version,
    list_versions,
    read_recipe,
)
from components.tracked_runs import flatten
from components.tracking import UNTRACKED, Run

_SHOWN = 4  # as many as stand side by side in a terminal


def read_entries(name: str, words: Sequence[str] = ()) -> list[Entry]:
    """Fetch versions of a registered model with their evaluations.

    Args:
        name: of the registered model.
        words: versions and aliases; none takes the champion, then the newest.

    Raises:
        ValueError: there is no such model or version, or one was registered without a report.
    """
    if words:
        chosen = [find_version(name, word) for word in words]
    else:
        versions = list_versions(name)
        chosen = sorted(versions, key=lambda version: "champion" not in version.aliases)[:_SHOWN]
    unique = list({version.number: version for version in chosen}.values())
    if not unique:
        raise ValueError(f"{name} has no versions to compare")
    return [_read_entry(version) for version in unique]


def measure_missing(
    entries: Sequence[Entry], data: Path, target: Path, run: Run = UNTRACKED
) -> list[Entry]:
    """Evaluate what cannot be compared with the first version, with the first one's settings.

    Where the first version was measured on other data than given, so are all of them.

    Args:
        entries: versions with the evaluations there are.
        data: folder of shards.
        target: keeps the evaluations; one that is there already is not made again.
        run: gets the progress.

    Raises:
        ValueError: there are no shards in the folder, or a model tells other classes apart.
    """
    settings = EvaluationConfig.from_json(json.dumps(dict(entries[0].report.settings)))
    dataset = read_dataset(data, num_images=settings.num_images)
    return list(_measured(entries, settings, dataset, target, run))


def _measured(
    entries: Sequence[Entry],
    settings: EvaluationConfig,
    dataset: Dataset,
    target: Path,
    run: Run,
) -> Iterator[Entry]:
    first = None
    for entry in entries:
        here = entry.report.data["fingerprint"] == dataset.facts["fingerprint"]
        alike = first is None or all(r.passed for r in judge_likeness(entry.evaluation, first))
        if not (here and alike):
            folder = target / f"{entry.version.name}-{entry.version.number}"
            if not _is_measured(folder, entry, settings, dataset):
                with tempfile.TemporaryDirectory() as fetched:
                    model = fetch_checkpoint(entry.version.uri, Path(fetched))
                    candidate = replace(
                        read_candidate(model), title=f"{entry.version.name} {entry.version.number}"
                    )
                    evaluate_candidate(candidate, dataset, settings, target=folder, run=run)
            entry = replace(entry, evaluation=load_report(folder))
        first = first or entry.evaluation
        yield entry


def _is_measured(folder: Path, entry: Entry, settings: EvaluationConfig, dataset: Dataset) -> bool:
    if not (folder / REPORT).is_file():
        return False
    known: RobustnessReport = load_report(folder)[0]
    return (
        known.model["checkpoint"] == entry.report.model["checkpoint"]
        and known.data["fingerprint"] == dataset.facts["fingerprint"]
        and dict(known.settings) == json.loads(settings.to_json())
    )


def _read_entry(version: Version) -> Entry:
    with tempfile.TemporaryDirectory() as folder:
        try:
            evaluation = load_report(fetch_report(version.uri, Path(folder)))
            words = json.loads(fetch_words(version.uri, Path(folder)).read_text(encoding="utf-8"))
        except Exception as error:  # whatever a store may answer
            raise ValueError(
                f"version {version.number} of {version.name} holds no report of ours: {error}"
            ) from error
    provenance = words["provenance"]
    recipe = read_recipe(version) or flatten("settings", provenance.get("settings", {}))
    return Entry(version=version, evaluation=evaluation, provenance=provenance, recipe=recipe)
