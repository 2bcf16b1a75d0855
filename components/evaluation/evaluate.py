"""Evaluate: a model in, a report that can be believed out, with its samples and its page."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from components.config import Choice
from components.data.batches import read_split
from components.data.index import read_index
from components.evaluation.config import EvaluationConfig
from components.evaluation.corruption import SEVERITIES, measure_corruptions
from components.evaluation.measure import Measurement, measure
from components.evaluation.page import write_page
from components.evaluation.report import PAGE, CorruptionResult, RobustnessReport, save_report
from components.evaluation.state import State, hash_model, hash_tensors
from components.evaluation.summarise import (
    Candidate,
    Dataset,
    choose_examples,
    make_report,
    make_samples,
    versions,
)
from components.models.build import ModelSpec
from components.models.checkpoint import WEIGHTS, hash_checkpoint, load_checkpoint, read_provenance
from components.tensors import Images, Labels, best_device
from components.tracking import UNTRACKED, Run

_STATE = "state"
# What may change between an evaluation that was killed and the one that goes on with its work.
_FREE_SETTINGS = ("suite", "survivors_only", "thorough", "corruptions", "budget_seconds")


def evaluate_robustness(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    epsilon: float,
    norm: str = "linf",
    suite: Sequence[Choice | str] = ("fast",),
    surrogates: Mapping[str, nn.Module] | None = None,
    state: Path | None = None,
    run: Run = UNTRACKED,
    **settings: Any,
) -> RobustnessReport:
    """Measure how much attack a model withstands, and whether the number can be believed.

    Args:
        model: any module from pixels to logits, on the images' device; left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, such as 8 / 255.
        norm: ``linf``, ``l2`` or ``l1``.
        suite: attacks and suites, by name or with their options.
        surrogates: other models by name, whose adversarial images are tried on this one.
        state: folder in which finished work is kept until the end, so that an evaluation that was
            killed goes on where it was.
        run: gets the progress.
        settings: further fields of EvaluationConfig.

    Raises:
        ValueError: model, images, labels or a setting are not as described.
    """
    words = tuple({"name": word} if isinstance(word, str) else word for word in suite)
    chosen = EvaluationConfig(epsilon=epsilon, norm=norm, suite=words, **settings)
    candidate = Candidate(model=model, title=type(model).__name__)
    dataset = Dataset(images=images, labels=labels)
    _, report = _evaluate(candidate, dataset, chosen, surrogates or {}, state, run)
    return report


def evaluate(
    settings: EvaluationConfig,
    *,
    data: Path,
    checkpoint: Path,
    target: Path,
    state: Path | None = None,
    run: Run = UNTRACKED,
) -> RobustnessReport:
    """Measure a checkpoint on the test split and write report, samples and page.

    Args:
        settings: threat model and attacks.
        data: folder of shards.
        checkpoint: folder of the model.
        target: receives ``report.json``, ``samples.parquet`` and ``report.html``.
        state: as `evaluate_candidate` takes it.
        run: gets figures and progress.

    Raises:
        ValueError: the model tells other classes apart than the data has.
    """
    dataset = read_dataset(data, num_images=settings.num_images)
    candidate = read_candidate(checkpoint)
    return evaluate_candidate(candidate, dataset, settings, target=target, state=state, run=run)


def evaluate_candidate(
    candidate: Candidate,
    dataset: Dataset,
    settings: EvaluationConfig,
    *,
    target: Path,
    surrogates: Mapping[str, nn.Module] | None = None,
    state: Path | None = None,
    run: Run = UNTRACKED,
) -> RobustnessReport:
    """Measure any model and write report, samples and page.

    An evaluation that was killed leaves its finished work behind; the same call goes on.

    Args:
        candidate: the model.
        dataset: the images.
        settings: threat model and attacks.
        target: receives ``report.json``, ``samples.parquet`` and ``report.html``.
        surrogates: other models by name, whose adversarial images are tried on this one.
        state: folder in which finished work is kept until the end; None takes one in the target.
        run: gets figures and progress.

    Raises:
        ValueError: model, images or labels do not fit together, or the state is that of another
            evaluation.
    """
    own, given = getattr(candidate.model, "spec", None), dataset.facts.get("classes")
    if isinstance(own, ModelSpec) and given and tuple(own.classes) != tuple(given):
        raise ValueError(
            f"the model knows the classes {list(own.classes)}, the data has {list(given)}"
        )
    state = state or target / _STATE
    measured, report = _evaluate(candidate, dataset, settings, surrogates or {}, state, run)
    samples = make_samples(measured, dataset)
    save_report(report, samples, target)
    write_page(report, samples, choose_examples(measured), target / PAGE)
    shutil.rmtree(state, ignore_errors=True)
    return report


def read_candidate(checkpoint: Path) -> Candidate:
    """Load the model of a checkpoint folder.

    Raises:
        IncompatibleCheckpoint: the folder holds no usable checkpoint.
    """
    model, provenance = load_checkpoint(checkpoint), read_provenance(checkpoint)
    return Candidate(
        model=model.to(best_device()),
        title=str(provenance.get("stage", checkpoint.name)),
        facts={
            "checkpoint": hash_checkpoint(checkpoint),
            "backbone": model.spec.backbone,
            "defences": model.spec.defences,
            "provenance": provenance,
        },
        size_bytes=(checkpoint / WEIGHTS).stat().st_size,
    )


def read_dataset(folder: Path, *, num_images: int = 0) -> Dataset:
    """Read the test split of prepared shards, or its first images.

    Raises:
        ValueError: the folder holds no prepared data.
    """
    index, split = read_index(folder), read_split(folder, "test")
    chosen = slice(num_images or None)
    ids = split.ids[chosen]
    return Dataset(
        images=(split.images[chosen].float() / 255).to(best_device()),
        labels=split.labels[chosen].to(best_device()),
        ids=ids,
        facts={
            "fingerprint": index.fingerprint,
            "split": "test",
            "images": hashlib.sha256("".join(ids).encode()).hexdigest(),
            "classes": index.classes,
        },
    )


def _evaluate(
    candidate: Candidate,
    dataset: Dataset,
    settings: EvaluationConfig,
    surrogates: Mapping[str, nn.Module],
    folder: Path | None,
    run: Run,
) -> tuple[Measurement, RobustnessReport]:
    started = time.monotonic()
    state = State(folder, _identity(candidate, dataset, settings, surrogates)) if folder else None
    measured = measure(
        candidate.model,
        dataset.images,
        dataset.labels,
        settings,
        surrogates=surrogates,
        state=state,
        run=run,
    )
    spoiled = _spoil(measured, state, run)
    seconds = time.monotonic() - started
    return measured, make_report(measured, candidate, dataset, seconds, corruptions=spoiled)


def _spoil(measured: Measurement, state: State | None, run: Run) -> tuple[CorruptionResult, ...]:
    """Judge the model on spoiled images, where the settings ask for them."""
    subject = measured.subject
    operations = subject.settings.spoiled_by
    if not operations:
        return ()
    total = len(operations) * len(SEVERITIES) * len(subject.images)
    with run.progress(total, "corrupted images") as progress:
        return measure_corruptions(
            lambda images, labels: subject.judge(images, labels)[0],
            subject.images,
            subject.labels,
            operations,
            seed=subject.settings.seed,
            state=state,
            advance=progress.advance,
        )


def _identity(
    candidate: Candidate,
    dataset: Dataset,
    settings: EvaluationConfig,
    surrogates: Mapping[str, nn.Module],
) -> dict[str, Any]:
    """Say what finished pieces of work depend on; each names its own attack besides."""
    fixed = json.loads(settings.to_json())
    for name in _FREE_SETTINGS:
        del fixed[name]
    return {
        "model": hash_model(candidate.model),
        "surrogates": {name: hash_model(model) for name, model in surrogates.items()},
        "data": hash_tensors(dataset.images, dataset.labels),
        "settings": fixed,
        "versions": versions(),
    }
