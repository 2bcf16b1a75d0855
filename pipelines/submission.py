"""Predictions for a flat folder of images, as the JSON list that the challenge takes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.data.decode import Shaping, decode_file
from components.data.sources.source import SUFFIXES
from components.evaluation.summarise import Candidate
from components.tensors import best_device
from components.tracking import Run

_BATCH_SIZE = 64


def predict_folder(
    candidate: Candidate, folder: Path, shaping: Shaping, run: Run
) -> list[dict[str, int]]:
    """Classify the images of a folder, whose names are numbers.

    The layout of Pei et al., 2022, https://arxiv.org/abs/2205.10617: ``0.png``, ``1.png``, ...

    Args:
        candidate: the model.
        folder: holds the images and nothing else.
        shaping: what becomes of an image before the model sees it.
        run: gets the progress.

    Returns:
        ``image_id``, the number in the name, and ``category_id``, the class, by rising number.

    Raises:
        ValueError: there are no images, a name is no number, or an image is broken.
    """
    files = _numbered(folder)
    model = candidate.model.eval()
    answers = []
    with run.progress(len(files), "images") as progress, torch.random.fork_rng():
        torch.manual_seed(0)  # for models that draw at random
        for batch in _batches(files, shaping):
            with torch.inference_mode():
                answers += model(batch.to(best_device())).argmax(1).tolist()
            progress.advance(len(batch))
    return [
        {"image_id": number, "category_id": int(answer)}
        for number, answer in zip(files, answers, strict=True)
    ]


def write_submission(predictions: list[dict[str, int]], path: Path) -> None:
    """Write predictions as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(predictions) + "\n", encoding="utf-8")


def shaping_for(candidate: Candidate, *, image_size: int, shorter_side: int, grey: bool) -> Shaping:
    """Say what a model's images must be like: as in its checkpoint, unless told otherwise.

    Raises:
        ValueError: the model does not say how large its images are, and nobody else does.
    """
    spec: Any = getattr(candidate.model, "spec", None)
    if spec is not None:
        channels, height, _ = spec.image_shape
        image_size, grey = image_size or height, channels == 1
    if not image_size:
        raise ValueError("this model does not tell the size of its images; give --image-size")
    return Shaping(grey=grey, image_size=image_size, shorter_side=shorter_side)


def _numbered(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder of images, and is missing")
    files: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.suffix.lower() not in SUFFIXES or not path.stem.isdecimal():
            raise ValueError(f"{path} must be an image whose name is a number, such as 12.png")
        if int(path.stem) in files:
            raise ValueError(f"{path} and {files[int(path.stem)]} have the same number")
        files[int(path.stem)] = path
    if not files:
        raise ValueError(f"{folder} must hold images, and is empty")
    return dict(sorted(files.items()))


def _batches(files: dict[int, Path], shaping: Shaping) -> Iterator[torch.Tensor]:
    paths = list(files.values())
    for first in range(0, len(paths), _BATCH_SIZE):
        pixels = [decode_file(path, shaping) for path in paths[first : first + _BATCH_SIZE]]
        yield torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous() / 255
