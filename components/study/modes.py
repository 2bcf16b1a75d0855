"""measure_modes: the models of all modes, measured as published and attacked honestly."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate_candidate, read_candidate, read_dataset
from components.models.build import Model
from components.models.checkpoint import load_checkpoint
from components.pruning.measures import attack_images, measure_columns
from components.pruning.prune import GATES
from components.study.config import ReproductionConfig
from components.tensors import Images, best_device
from components.tracking import UNTRACKED, Run

COLUMNS_FILE = "columns.json"


def measure_modes(
    settings: ReproductionConfig,
    evaluation: EvaluationConfig,
    *,
    data: Path,
    models: Mapping[str, Path],
    source: Path,
    target: Path,
    run: Run = UNTRACKED,
) -> None:
    """Measure every model on the test split: a folder each, with its columns and its report.

    Args:
        settings: of the published columns.
        evaluation: of the honest report.
        data: folder of shards.
        models: checkpoints by mode.
        source: checkpoint of the model that the black-box images are crafted on.
        target: receives a folder for each mode, of what `evaluate` writes and ``columns.json``.
        run: gets the figures and the progress.
    """
    shown = read_dataset(data)
    first = slice(settings.num_images or None)
    attacked = read_dataset(data, num_images=evaluation.num_images)
    source_model = load_checkpoint(source).to(best_device())
    total = (len(models) + 1) * len(shown.images[first])
    with run.progress(total, "images attacked for the published columns") as progress:

        def attack(model: Model) -> Images:
            crafted = attack_images(
                model,
                shown.images[first],
                shown.labels[first],
                attack=settings.attack,
                batch_size=settings.batch_size,
            )
            batches = []
            for batch in crafted:
                batches.append(batch)
                progress.advance(len(batch))
            return torch.cat(batches)

        black_box = attack(source_model)
        for mode, checkpoint in models.items():
            model = load_checkpoint(checkpoint).to(best_device())
            columns = measure_columns(
                model,
                source_model,
                shown.images,
                shown.labels,
                white_box=attack(model),
                black_box=black_box,
                batch_size=settings.batch_size,
            )
            values = dataclasses.asdict(columns) | {"gates": _keep_probabilities(checkpoint)}
            (target / mode).mkdir(parents=True, exist_ok=True)
            (target / mode / COLUMNS_FILE).write_text(json.dumps(values), encoding="utf-8")
    for mode, checkpoint in models.items():
        report = evaluate_candidate(
            read_candidate(checkpoint), attacked, evaluation, target=target / mode, run=run
        )
        run.metrics({f"{mode}.{name}": value for name, value in report.figures().items()})


def _keep_probabilities(checkpoint: Path) -> dict[str, list[float]]:
    """Read what a pruning left beside its checkpoint; a training leaves nothing."""
    path = checkpoint / GATES
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
