"""save_checkpoint, load_checkpoint: a folder with weights and the words that rebuild the model."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from components.models.build import Model, ModelSpec, build_model
from components.models.weights import WEIGHTS as WEIGHTS
from components.models.weights import WORDS as WORDS

_FORMAT = 1

STAGES_KEPT = 20
"""Stages before a checkpoint's own that its provenance tells of."""


class IncompatibleCheckpoint(ValueError):
    """A folder that is no checkpoint, or one whose weights do not fit its words."""


def save_checkpoint(model: Model, folder: Path, *, provenance: Mapping[str, Any]) -> None:
    """Write a model into a folder, which is made where it is missing.

    Args:
        model: what to save; it may be on any device.
        folder: receives ``weights.safetensors`` and ``model.json``.
        provenance: where the weights come from, in JSON's types: stage, settings, data.

    Raises:
        OSError: there is no room, or no right to write; a checkpoint that was there is intact.
    """
    weights = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    words = {
        "format": _FORMAT,
        "spec": json.loads(model.spec.to_json()),
        "provenance": dict(provenance),
    }
    contents = {WEIGHTS: save(weights), WORDS: json.dumps(words, indent=2).encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder, contents)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the checkpoint {folder}: {error.strerror}; make room and start again",
        ) from error


def _replace(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Put a checkpoint's files in the place of old ones once all of them are whole on disk."""
    unfinished = {name: folder / f".{name}.unfinished" for name in contents}
    try:
        for name, content in contents.items():
            with unfinished[name].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        # Old words go first and new ones come last: a folder with them is a complete checkpoint.
        (folder / WORDS).unlink(missing_ok=True)
        for name in (WEIGHTS, WORDS):
            unfinished[name].replace(folder / name)
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Model:
    """Rebuild the model of a checkpoint folder, on the CPU and in evaluation mode.

    Raises:
        IncompatibleCheckpoint: a file is missing or damaged, or words and weights disagree.
    """
    try:
        words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        if words["format"] != _FORMAT:
            raise IncompatibleCheckpoint(
                f"{folder / WORDS} has format {words['format']}, this version reads {_FORMAT}"
            )
        model = build_model(ModelSpec.from_json(json.dumps(words["spec"])))
        model.network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise IncompatibleCheckpoint(f"{folder} is no usable checkpoint: {error}") from error
    return model.eval()


def read_provenance(folder: Path) -> dict[str, Any]:
    """Give the provenance that `save_checkpoint` was handed."""
    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    return dict(words["provenance"])


def provenance_of(initial: Path | None) -> dict[str, Any]:
    """Give what a checkpoint's provenance says of the one it started from; nothing for none.

    A model that goes on learning for years keeps the record of its latest stages. The oldest of
    them names what it started from, which has a record of its own.
    """
    if initial is None:
        return {}
    stage = before = read_provenance(initial)
    for _ in range(STAGES_KEPT - 1):
        stage = stage.get("before", {})
    stage.pop("before", None)
    return {"initial": hash_checkpoint(initial), "before": before}


def hash_checkpoint(folder: Path) -> str:
    """Give the SHA-256 of a checkpoint's spec and weights, which names what was evaluated."""
    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(words["spec"], sort_keys=True).encode())
    digest.update((folder / WEIGHTS).read_bytes())
    return digest.hexdigest()
