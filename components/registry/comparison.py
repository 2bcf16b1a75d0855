"""Comparison: versions of a model side by side, and whether they differ by more than noise."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from components.evaluation.page import explain_trust
from components.evaluation.report import Accuracy, RobustnessReport
from components.registry.compare import Evaluation, count_changes, judge_likeness, sign_test
from components.registry.models import Version

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A version with what there is to compare.

    Attributes:
        version: what the registry says of it.
        evaluation: report and samples, its own or one made for the comparison.
        provenance: where its weights come from, as its checkpoint says.
        recipe: every setting of the pipeline run that it comes from, by name.
    """

    version: Version
    evaluation: Evaluation
    provenance: Mapping[str, Any]
    recipe: Mapping[str, str]

    @property
    def report(self) -> RobustnessReport:
        """What was measured."""
        return self.evaluation[0]

    @property
    def label(self) -> str:
        """What people call it: its number, and that it is the champion."""
        return " ".join((self.version.number, *self.version.aliases))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A version against the first one, image by image.

    Attributes:
        version: its number.
        against: the first one's number.
        missing: why they cannot be compared, in sentences; empty where they can.
        gain: robust accuracy of the version less that of the first; None where they cannot be
            compared, as for the next three.
        better: images on which it is more robust.
        worse: images on which it is less robust.
        p_value: chance of so uneven a split, one way or the other, if neither were better.
    """

    version: str
    against: str
    missing: tuple[str, ...] = ()
    gain: float | None = None
    better: int | None = None
    worse: int | None = None
    p_value: float | None = None

    def __str__(self) -> str:
        if self.missing:
            return (
                f"Version {self.version} cannot be compared with {self.against}: "
                f"{' '.join(self.missing)}"
            )
        assert self.gain is not None and self.p_value is not None
        told = (
            f"Version {self.version} against {self.against}: robust accuracy "
            f"{self.gain * 100:+.1f} points, better on {self.better} images and worse on "
            f"{self.worse}; "
        )
        return told + (
            f"chance alone does as much with probability {self.p_value:.2g}."
            if self.better or self.worse
            else "every image ends alike."
        )


def compare_pair(entry: Entry, first: Entry) -> Pair:
    """Test a version against another one on the same images.

    The exact sign test, two-sided: twice the smaller tail of `sign_test`, and at most 1.
    """
    pair = partial(Pair, version=entry.version.number, against=first.version.number)
    names = (f"version {entry.version.number}", f"version {first.version.number}")
    same = judge_likeness(entry.evaluation, first.evaluation, names)
    missing = tuple(rule.reason for rule in same if not rule.passed)
    if missing:
        return pair(missing=missing)
    better, worse = count_changes(entry.evaluation[1], first.evaluation[1])
    return pair(
        gain=entry.report.robust_accuracy.value - first.report.robust_accuracy.value,
        better=better,
        worse=worse,
        p_value=min(1.0, 2 * sign_test(max(better, worse), min(better, worse))),
    )


def compare_all(entries: Sequence[Entry]) -> list[Pair]:
    """Test every version against the first one."""
    return [compare_pair(entry, entries[0]) for entry in entries[1:]]


def differing_settings(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Give the settings in which the recipes on record differ, with each version's in order."""
    known = [entry.recipe for entry in entries if entry.recipe]
    differing = {
        name for recipe in known for name in recipe if len({r.get(name) for r in known}) > 1
    }
    return {name: [entry.recipe.get(name, "–") for entry in entries] for name in sorted(differing)}


def lineage(entry: Entry) -> dict[str, str]:
    """Say where a version comes from."""
    words = {
        "stage": entry.provenance.get("stage"),
        "pipeline run": entry.version.tags.get("pipeline_run"),
        "weights": entry.report.model.get("checkpoint"),
        "started from": entry.provenance.get("initial"),
        "trained on": entry.provenance.get("data"),
        "verdict": entry.version.tags.get("verdict"),
    }
    overrides = {
        key.replace(".", " "): text
        for key, text in entry.version.tags.items()
        if key.startswith("override.")
    }
    return {name: str(word) for name, word in words.items() if word} | overrides


def worst_per_attack(report: RobustnessReport) -> dict[str, Accuracy]:
    """Give the accuracy under each attack through the view in which it is strongest."""
    found: dict[str, Accuracy] = {}
    for attack in report.attacks:
        known = found.get(attack.name)
        if known is None or attack.robust_accuracy.value < known.value:
            found[attack.name] = attack.robust_accuracy
    return found


def to_values(entries: Sequence[Entry]) -> dict[str, Any]:
    """Give the whole comparison in JSON's types, for scripts."""
    return {
        "schema": SCHEMA,
        "model": entries[0].version.name,
        "versions": [_values(entry) for entry in entries],
        "pairs": [dataclasses.asdict(pair) for pair in compare_all(entries)],
        "differing_settings": {
            name: {e.version.number: v for e, v in zip(entries, values, strict=True)}
            for name, values in differing_settings(entries).items()
        },
    }


def _values(entry: Entry) -> dict[str, Any]:
    report, version = entry.report, entry.version
    return {
        "version": version.number,
        "aliases": list(version.aliases),
        "created": version.created,
        "trust": report.trust,
        "explanation": explain_trust(report),
        "norm": report.norm,
        "epsilon": report.epsilon,
        "num_images": report.robust_accuracy.num_images,
        "data": report.data.get("fingerprint"),
        "clean_accuracy": _interval(report.clean_accuracy),
        "naive_robust_accuracy": _interval(report.naive_robust_accuracy),
        "robust_accuracy": _interval(report.robust_accuracy),
        "attacks": {name: _interval(a) for name, a in worst_per_attack(report).items()},
        "mean_corruption_accuracy": _interval(report.mean_corruption_accuracy),
        "metrics": dict(report.metrics),
        "costs": dict(report.costs),
        "latency_seconds": report.latency_seconds,
        "lineage": lineage(entry),
    }


def _interval(accuracy: Accuracy | None) -> list[float] | None:
    return None if accuracy is None else [accuracy.value, accuracy.low, accuracy.high]


def images_apart(entry: Entry, first: Entry) -> Iterator[tuple[str, int, bool]]:
    """Give the images that one of two versions withstands and the other does not.

    Yields:
        Id, true class, and whether it is the first that withstands.
    """
    new, old = (e.evaluation[1].sort_by("id") for e in (entry, first))
    rows = zip(
        new["id"].to_pylist(),
        new["label"].to_pylist(),
        new["robust"].to_pylist(),
        old["robust"].to_pylist(),
        strict=True,
    )
    for id, label, after, before in rows:
        if (after > 0.5) != (before > 0.5):
            yield id, label, before > 0.5
