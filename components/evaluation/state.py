"""State: what an evaluation has found so far, on disk, so that a killed one goes on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_IDENTITY = "identity.json"


class OtherEvaluation(ValueError):
    """A state folder that belongs to another evaluation."""


class State:
    """Results of finished pieces of work, a file for each, which appears complete or not at all.

    Args:
        folder: made with the first result, where it is missing.
        identity: what the evaluation depends on, in JSON's types.

    Raises:
        OtherEvaluation: the folder holds the state of an evaluation with another identity.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self._known = folder, folder / _IDENTITY
        self._text = json.dumps(identity, sort_keys=True, indent=2)
        if self._known.exists() and (old := self._known.read_text(encoding="utf-8")) != self._text:
            raise OtherEvaluation(
                f"{folder} holds an unfinished evaluation with another "
                f"{', '.join(_differences(json.loads(old), identity))}; finish that one, remove "
                "the folder, or write to another"
            )

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Give the result of a piece of work; None where it is not finished or is damaged."""
        path = self._path(key)
        try:
            return load_file(path) if path.exists() else None
        except (SafetensorError, OSError):
            return None  # done once more

    def save(self, key: str, result: Mapping[str, Tensor]) -> None:
        """Keep the result of a piece of work."""
        if not self._known.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self._known, lambda path: path.write_text(self._text, encoding="utf-8"))
        plain = {name: value.detach().cpu().contiguous() for name, value in result.items()}
        _write(self._path(key), lambda path: save_file(plain, path))

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"


def hash_model(model: nn.Module) -> str:
    """Give the SHA-256 of a module's structure, parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def hash_tensors(*tensors: Tensor) -> str:
    """Give the SHA-256 of the tensors' values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return plain.numpy().tobytes()


def _write(path: Path, write: Any) -> None:
    """Let a file appear at once and whole, whenever the process is killed."""
    unfinished = path.with_name(f"{path.name}.part")
    write(unfinished)
    unfinished.replace(path)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
