"""Runs as MLflow keeps them: found, made, written to and ended; each call may meet an outage."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from components.secrecy import hide_tracking_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the address of the tracking store; without it nothing is tracked."""

EXPERIMENT = "bartizan"
"""Where runs are kept, unless the environment names another experiment."""

MOST_POINTS = 1000
"""The most that MLflow takes in one write."""

Status = Literal["FINISHED", "FAILED", "KILLED"]

_PIPELINE_RUN_TAG = "kfp.pipeline_run_id"  # KFP's own name, which its server writes too
_ROLE_TAG = "bartizan.role"
_AUTHOR_TAG = "bartizan.author"
_MOST_PARAMS = 100
_LONGEST_PARAM = 6000
_TOO_MANY_REQUESTS = 429


class Point(NamedTuple):
    """A point of a curve.

    Attributes:
        name: of the curve.
        value: the figure.
        moment: when it was measured, in milliseconds since 1970.
        step: its place on the curve.
    """

    name: str
    value: float
    moment: int
    step: int


def try_store() -> None:
    """Ask the tracking store for something small.

    Raises:
        ConnectionError: it does not answer, or refuses.
    """
    mlflow = load_mlflow()
    try:
        _client().search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        raise ConnectionError(str(error)) from error


def load_mlflow() -> Any:
    """Import MLflow, which takes seconds: only a process that tracks pays for it.

    Where nothing else needs it, it shall repeat a failed call once and not for minutes: who sends
    notes has a patience of its own.
    """
    hide_tracking_password()
    alone = "mlflow" not in sys.modules
    import mlflow

    if alone:
        mlflow.environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 1
    return mlflow


def is_outage(error: Exception) -> bool:
    """Tell a store that cannot answer now from one that refuses what it was asked."""
    from botocore.exceptions import HTTPClientError  # of artifacts that go straight to a bucket
    from requests import HTTPError, RequestException  # of artifacts that go through the server
    from sqlalchemy.exc import OperationalError  # of a store that is opened for the first time

    if isinstance(error, load_mlflow().MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        return isinstance(error, (HTTPClientError, OperationalError, RequestException))
    return status >= 500 or status == _TOO_MANY_REQUESTS


def open_pipeline_run(
    run_id: str, name: str, recipe: Mapping[str, str], artifact_root: str | None
) -> tuple[str, str]:
    """Give the experiment, and the run that stands for a pipeline run, which may have to be made.

    Args:
        run_id: KFP's.
        name: for a run that is made.
        recipe: sections as JSON text, recorded as parameters and files.
        artifact_root: where an experiment that is made keeps its artifacts.
    """
    experiment = _experiment(artifact_root)
    parent = _pipeline_run(experiment, run_id, name)
    for section, text in recipe.items():
        log_settings(parent, section, text)
    return experiment, parent


def close_pipeline_run(run_id: str, status: Status) -> None:
    """End a pipeline's run, and with it the steps' runs that died without a word."""
    client = _client()
    for run in _find(_experiment(), {_PIPELINE_RUN_TAG: run_id}):
        is_pipeline = run.data.tags.get(_ROLE_TAG) == "pipeline"
        died = run.info.status == "RUNNING" and status != "FINISHED"
        if is_pipeline or died:
            client.set_terminated(run.info.run_id, status)


def read_figures(run_id: str) -> dict[str, dict[str, float]]:
    """Give the last figures of each step of a pipeline's run."""
    runs = _find(_experiment(), {_PIPELINE_RUN_TAG: run_id, _ROLE_TAG: "step"})
    return {run.info.run_name: dict(run.data.metrics) for run in runs}


def open_step_run(step: str, author: str, pipeline_run: str) -> str:
    """Give the run of an attempt at a step; made once, also where the answer to that got lost.

    Args:
        step: its name in the run graph.
        author: tells this attempt from others.
        pipeline_run: id of the pipeline run that it is nested under, if there is one.
    """
    experiment, tags = _experiment(), {_ROLE_TAG: "step", _AUTHOR_TAG: author}
    if found := _find(experiment, {_AUTHOR_TAG: author}):
        return str(found[0].info.run_id)
    if pipeline_run:
        tags[_PIPELINE_RUN_TAG] = pipeline_run
        tags["mlflow.parentRunId"] = _pipeline_run(experiment, pipeline_run, pipeline_run)
    return str(_client().create_run(experiment, run_name=step, tags=tags).info.run_id)


def resume_run(run_id: str) -> None:
    """Say that a run goes on which somebody else has made."""
    _client().update_run(run_id, status="RUNNING")


@contextmanager
def active(run_id: str) -> Iterator[None]:
    """Let MLflow's own functions write to a run; some of them insist on one that is active."""
    with load_mlflow().start_run(run_id, nested=True):
        yield


def log_points(run_id: str, points: Sequence[Point]) -> None:
    """Log points of curves, up to MOST_POINTS in one call."""
    from mlflow.entities import Metric  # loaded where there is a client

    client, metrics = _client(), [Metric(*point) for point in points]
    for start in range(0, len(metrics), MOST_POINTS):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_POINTS])


def log_folder(run_id: str, path: str, name: str) -> None:
    """Keep the files of a folder under a name."""
    _client().log_artifacts(run_id, path, name)


def log_settings(run_id: str, prefix: str, text: str) -> None:
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


def end_run(run_id: str, status: Status) -> None:
    """Say how a run ended."""
    _client().set_terminated(run_id, status)


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


def _client() -> "MlflowClient":
    client: MlflowClient = load_mlflow().MlflowClient()
    return client


def _experiment(artifact_root: str | None = None) -> str:
    """Find the experiment, or make it."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    client, name = _client(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, artifact_location=artifact_root))
    except load_mlflow().MlflowException as error:
        # Another step may have made it since we looked.
        if error.error_code == "RESOURCE_ALREADY_EXISTS" and (
            found := client.get_experiment_by_name(name)
        ):
            return str(found.experiment_id)
        raise


def _pipeline_run(experiment: str, run_id: str, name: str) -> str:
    """Find the run that stands for the pipeline run, or make it."""
    client, wanted = _client(), {_PIPELINE_RUN_TAG: run_id, _ROLE_TAG: "pipeline"}
    if not (found := _find(experiment, wanted)):
        made = client.create_run(experiment, run_name=name, tags=wanted).info.run_id
        # Steps that start side by side may each have made one; all of them keep the oldest.
        found = _find(experiment, wanted)
        if found[0].info.run_id != made:
            client.delete_run(made)
    return str(found[0].info.run_id)


def _find(experiment: str, tags: Mapping[str, str]) -> list[Any]:
    """Give the runs with these tags, the oldest first."""
    condition = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    return list(_client().search_runs([experiment], condition, order_by=order))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 1] + "…"
