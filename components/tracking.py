"""Runs and curves in MLflow, and the progress of a step; without a server it says so once."""

import functools
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config
from components.endings import termination_as_exit, where
from components.journal import Note, append, follow
from components.progress import Progress, emit

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the address of the tracking store; without it nothing is tracked."""

PIPELINE_RUN = "KFP_RUN_ID"
"""Environment variable with the id of the pipeline run that a step belongs to."""

JOURNAL = "BARTIZAN_JOURNAL"
"""Environment variable with the file for a step's notes, where another process writes them."""

EXPERIMENT = "bartizan"
"""Where runs are kept, unless the environment names another experiment."""

Status = Literal["FINISHED", "FAILED", "KILLED"]

_PIPELINE_RUN_TAG = "kfp.pipeline_run_id"  # KFP's own name, which its server writes too
_ROLE_TAG = "bartizan.role"
_SECONDS_BETWEEN_WRITES = 1.0
_MOST_POINTS = 1000  # the most that MLflow takes in one write
_MOST_PARAMS = 100
_LONGEST_PARAM = 6000


class Run:
    """What a step tells the outside world; one that nobody listens to keeps it to itself.

    Args:
        name: of the step in the run graph.
        tell: gets every note.
    """

    def __init__(self, name: str, tell: Callable[[Note], None] | None = None) -> None:
        self.name = name
        self._tell = tell or _ignore

    def settings(self, prefix: str, config: Config) -> None:
        """Record settings as parameters under a prefix, and exactly as a file."""
        self._tell({"kind": "settings", "prefix": prefix, "text": config.to_json()})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record a point of each curve."""
        points = {name: float(value) for name, value in values.items()}
        self._tell({"kind": "metrics", "values": points, "step": step or 0, "time": time.time()})

    def folder(self, path: Path, name: str) -> None:
        """Keep a folder's files under a name; the folder must outlive the step."""
        self._tell({"kind": "folder", "path": str(path.resolve()), "name": name})

    def progress(self, total: int, unit: str) -> Progress:
        """Count the step's work, for whoever watches."""
        return Progress(self.name, total, unit)

    def end(self, status: Status) -> None:
        """Say how the step ended."""
        self._tell({"kind": "end", "status": status})


def _ignore(note: Note) -> None:
    pass


UNTRACKED = Run("untracked")
"""Records nothing; what a verb gets that is called outside any step."""


@contextmanager
def step_run(step: str, prefix: str, settings: Config) -> Iterator[Run]:
    """Announce a step, track it, and say how it ended, also when it fails or is stopped.

    Args:
        step: its name in the run graph.
        prefix: of its settings among the run's parameters.
        settings: of the step.
    """
    emit(step, "start")
    run = Run(step)
    with termination_as_exit():
        try:
            run = _start(step)
            run.settings(prefix, settings)
            yield run
            run.end("FINISHED")
        except BaseException as error:
            emit(step, "failed", error=f"{type(error).__name__}: {error}", where=where(error))
            run.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
    emit(step, "end")


def open_pipeline_run(
    pipeline: str,
    run_id: str,
    recipe: Mapping[str, str] | None = None,
    *,
    artifact_root: str | None = None,
) -> str:
    """Open the run under which the steps of a pipeline run are nested.

    Args:
        pipeline: its name.
        run_id: what the steps find in KFP_RUN_ID.
        recipe: sections as JSON text, recorded as parameters and files.
        artifact_root: where a new experiment in a local store keeps its artifacts; a server
            decides that for itself.

    Returns:
        Where to look: an address on a server, MLflow's run id in a local store, nothing without a
        tracking store.
    """
    uri = os.environ.get(URI)
    if not uri:
        _say_untracked()
        return ""
    remote = uri.startswith("http")
    experiment = _experiment(None if remote else artifact_root)
    parent = _pipeline_run(experiment, run_id, f"{pipeline} {run_id}")
    for section, text in (recipe or {}).items():
        _log_settings(parent, section, text)
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{parent}" if remote else parent


def close_pipeline_run(run_id: str, status: Status) -> None:
    """End a pipeline's run, and with it the steps' runs that died without a word."""
    if not os.environ.get(URI):
        return
    client = _client()
    for run in _find(_experiment(), run_id):
        is_pipeline = run.data.tags.get(_ROLE_TAG) == "pipeline"
        died = run.info.status == "RUNNING" and status != "FINISHED"
        if is_pipeline or died:
            client.set_terminated(run.info.run_id, status)


@contextmanager
def write_for_steps(journal: Path) -> Iterator[None]:
    """Write to the tracking store what steps started by this process note down.

    Loading MLflow takes a step seconds of computing; this way one process pays for all. Steps that
    need MLflow for more than their notes write for themselves.

    Args:
        journal: file that receives the notes.
    """
    if not os.environ.get(URI):
        yield
        return
    journal.touch()
    os.environ[JOURNAL] = str(journal)
    ended = threading.Event()
    with ThreadPoolExecutor(1) as writing:
        written = writing.submit(_write_notes, journal, ended)
        try:
            yield
        finally:
            del os.environ[JOURNAL]
            ended.set()
    written.result()


def _start(step: str) -> Run:
    if not os.environ.get(URI):
        _say_untracked()
        return Run(step)
    journal = os.environ.get(JOURNAL)
    if journal and "mlflow" not in sys.modules:
        return Run(step, functools.partial(append, Path(journal), step, secrets.token_hex(4)))
    mlflow = _load_mlflow()
    # Where KFP's server has made the step's run, MLflow finds its id in the environment.
    made = None if os.environ.get("MLFLOW_RUN_ID") else _step_run(step)
    return Run(step, _Writer(mlflow.start_run(made, nested=True).info.run_id).take)


def _write_notes(journal: Path, ended: threading.Event) -> None:
    writers: dict[str, _Writer] = {}
    for entry in follow(journal, ended):
        if entry.author not in writers:
            writers[entry.author] = _Writer(_step_run(entry.step))
        writers[entry.author].take(entry.note)


class _Writer:
    """Writes a step's notes into its MLflow run, in few and bounded batches."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.client = _client()
        self._points: list[Any] = []
        self._last_write = float("-inf")

    def take(self, note: Note) -> None:
        match note["kind"]:
            case "settings":
                _log_settings(self.run_id, note["prefix"], note["text"])
            case "metrics":
                self._add_points(note)
            case "folder":
                self.client.log_artifacts(self.run_id, note["path"], note["name"])
            case "end":
                self._write()
                self._end(note["status"])

    def _add_points(self, note: Note) -> None:
        from mlflow.entities import Metric  # loaded where there is a writer

        moment = int(note["time"] * 1000)
        points = note["values"].items()
        self._points += [Metric(name, value, moment, note["step"]) for name, value in points]
        if time.monotonic() - self._last_write >= _SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> None:
        for start in range(0, len(self._points), _MOST_POINTS):
            batch = self._points[start : start + _MOST_POINTS]
            self.client.log_batch(self.run_id, metrics=batch)
        self._points.clear()
        self._last_write = time.monotonic()

    def _end(self, status: Status) -> None:
        mlflow = _load_mlflow()
        active = mlflow.active_run()
        if active and active.info.run_id == self.run_id:
            mlflow.end_run(status)
        else:
            self.client.set_terminated(self.run_id, status)


def _step_run(step: str) -> str:
    """Make the run of a step, below that of its pipeline run if it belongs to one."""
    experiment, tags = _experiment(), {_ROLE_TAG: "step"}
    if pipeline_run := os.environ.get(PIPELINE_RUN):
        tags[_PIPELINE_RUN_TAG] = pipeline_run
        tags["mlflow.parentRunId"] = _pipeline_run(experiment, pipeline_run, pipeline_run)
    return str(_client().create_run(experiment, run_name=step, tags=tags).info.run_id)


def _load_mlflow() -> Any:
    """Import MLflow, which takes seconds: only a process that tracks pays for it."""
    import mlflow

    return mlflow


def _client() -> "MlflowClient":
    client: MlflowClient = _load_mlflow().MlflowClient()
    return client


@functools.cache
def _say_untracked() -> None:
    print(f"{URI} is not set, so nothing is tracked")


def _experiment(artifact_root: str | None = None) -> str:
    """Find the experiment, or make it."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    client, name = _client(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifact_root))
    except _load_mlflow().MlflowException as error:
        # Another step may have made it since we looked.
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (
            found := client.get_experiment_by_name(name)
        ):
            return str(found.experiment_id)
        raise


def _pipeline_run(experiment: str, run_id: str, name: str) -> str:
    """Find the run that stands for the pipeline run, or make it."""
    client = _client()
    if not (found := _find(experiment, run_id, role="pipeline")):
        tags = {_PIPELINE_RUN_TAG: run_id, _ROLE_TAG: "pipeline"}
        made = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        # Steps that start side by side may each have made one; all of them keep the oldest.
        found = _find(experiment, run_id, role="pipeline")
        if found[0].info.run_id != made:
            client.delete_run(made)
    return str(found[0].info.run_id)


def _find(experiment: str, run_id: str, role: str | None = None) -> list[Any]:
    """Give the runs of a pipeline run, the oldest first."""
    wanted = {_PIPELINE_RUN_TAG: run_id} | ({_ROLE_TAG: role} if role else {})
    condition = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in wanted.items())
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(_client().search_runs([experiment], condition, order_by=order))


def _log_settings(run_id: str, prefix: str, text: str) -> None:
    """Log settings as parameters for comparing runs, and as a file that no limit cuts."""
    from mlflow.entities import Param  # loaded where there is a client

    client = _client()
    params = [Param(name, _cut(v)) for name, v in flatten(prefix, json.loads(text)).items()]
    for start in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{prefix}.json"
        path.write_text(text, encoding="utf-8")
        client.log_artifact(run_id, str(path), "settings")


def flatten(name: str, value: Any) -> dict[str, str]:
    """Name every leaf of a setting; a choice is its word, with its options below it.

    ``{"name": "pgd", "steps": 20}`` under ``train.attack`` becomes ``train.attack`` = ``pgd`` and
    ``train.attack.steps`` = ``20``; a list stays one value, as JSON text.
    """
    if not isinstance(value, Mapping):
        return {name: value if isinstance(value, str) else json.dumps(value)}
    leaves = {name: value["name"]} if isinstance(value.get("name"), str) else {}
    for key, part in value.items():
        if not (key == "name" and leaves):
            leaves |= flatten(f"{name}.{key}", part)
    return leaves


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 1] + "…"
