"""TrainingState: where training stands, on disk, so that a killed one goes on from there."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_FILES = "newest.state", "previous.state"
_DIGEST = 32  # bytes of SHA-256 at a file's end


class OtherTraining(ValueError):
    """A state folder that belongs to another training."""


class TrainingState:
    """The last two states of one training; a torn or damaged one is not taken for good.

    Nothing is unpickled but tensors, numbers, words and containers of these.

    Args:
        folder: made with the first state, where it is missing.
        identity: what the result depends on, in JSON's types.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = json.dumps(identity, sort_keys=True)

    def load(self) -> dict[str, Any] | None:
        """Give the newest state that is whole; None where there is none.

        Raises:
            OtherTraining: it is that of a training with another identity.
        """
        for name in _FILES:
            content = _whole(self.folder / name)
            if content is None:
                continue
            state: dict[str, Any] = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            )
            if state.pop("identity") != self._identity:
                raise OtherTraining(
                    f"{self.folder} holds an unfinished training with other settings, data or "
                    "initial model; finish that one, remove the folder, or train to another"
                )
            return state
        return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state; the one before stays until it is whole on disk.

        Raises:
            OSError: there is no room, or no right to write; the state before is intact.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        newest, previous = (self.folder / name for name in _FILES)
        buffer = io.BytesIO()
        torch.save({**state, "identity": self._identity}, buffer)
        content = buffer.getbuffer()
        unfinished = self.folder / "unfinished.state"
        try:
            with unfinished.open("wb") as file:
                file.write(content)
                file.write(hashlib.sha256(content).digest())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f"cannot keep the state of training in {self.folder}: {error.strerror}; make room "
                "and start again, training goes on from the state before",
            ) from error
        if _whole(newest) is not None:  # a damaged one must not push out a good one
            newest.replace(previous)
        unfinished.replace(newest)


def _whole(path: Path) -> bytes | None:
    """Read what `save` wrote; None where there is nothing, or not all of it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    body, digest = content[:-_DIGEST], content[-_DIGEST:]
    return body if hashlib.sha256(body).digest() == digest else None
