"""Where local runs live: one folder with the tracking store, artifacts and a folder per run."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class UnusableWorkspace(ValueError):
    """A workspace that cannot be written, or in which a run is going on."""


@dataclass(frozen=True)
class Workspace:
    """The folder of all local runs; ``.bartizan`` in the current folder unless told otherwise."""

    root: Path

    @property
    def tracking_uri(self) -> str:
        """Where MLflow keeps runs: the server of MLFLOW_TRACKING_URI, or a file of our own."""
        default = f"sqlite:///{self.root.resolve() / 'mlflow.db'}"
        return os.environ.get("MLFLOW_TRACKING_URI") or default

    @property
    def artifact_root(self) -> Path:
        """Where MLflow keeps the artifacts of runs that it tracks in a file."""
        return self.root.resolve() / "artifacts"

    @property
    def schedules(self) -> Path:
        """Where the schedules of this machine are kept."""
        return self.root / "schedules.db"

    def find_run(self, run_id: str = "") -> "RunFolder":
        """Find a run by its name, or the last one.

        Raises:
            ValueError: there is no such run.
        """
        runs = sorted(p for p in (self.root / "runs").glob("*") if run_id in ("", p.name))
        if not runs:
            raise ValueError(
                f"there is no run {run_id or 'at all'} in the workspace {self.root}; "
                "'bartizan run' makes one"
            )
        return RunFolder(runs[-1])

    @contextmanager
    def occupy(self, *, wait: bool = False) -> Iterator[IO[str]]:
        """Hold the workspace for one run; a child process that inherits the file holds it too.

        Args:
            wait: until no other run holds it.

        Raises:
            UnusableWorkspace: it cannot be written, or another run holds it.
        """
        if "?" in str(self.root.resolve()):
            raise UnusableWorkspace(f"the workspace {self.root} must not have a ? in its path")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UnusableWorkspace(
                f"the workspace {self.root} cannot be written ({error.strerror}); "
                "choose another with --workspace"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UnusableWorkspace(
                    f"another run is going on in the workspace {self.root}; wait for it, or "
                    "choose another with --workspace"
                ) from error
            yield lock

    def new_run(self) -> "RunFolder":
        """Make the folder of a new run; names sort by time."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        folder = RunFolder(self.root.resolve() / "runs" / name)
        folder.path.mkdir(parents=True)
        return folder


@dataclass(frozen=True)
class RunFolder:
    """What is kept of one local run."""

    path: Path

    @property
    def run_id(self) -> str:
        """Name of the run, under which MLflow knows it too."""
        return self.path.name

    @property
    def pipeline(self) -> Path:
        """The compiled pipeline that ran."""
        return self.path / "pipeline.yaml"

    @property
    def log(self) -> Path:
        """Everything that the runner and its steps printed."""
        return self.path / "log.txt"

    @property
    def events(self) -> Path:
        """The steps' progress, one JSON object per line."""
        return self.path / "events.jsonl"

    @property
    def journal(self) -> Path:
        """What the steps noted down for the tracking store."""
        return self.path / "journal.jsonl"

    @property
    def artifacts(self) -> Path:
        """What the steps handed to each other."""
        return self.path / "artifacts"

    def folders_with(self, name: str) -> list[Path]:
        """Find the artifacts that hold a file of this name."""
        return sorted(path.parent for path in self.artifacts.rglob(name))
