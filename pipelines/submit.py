"""A compiled pipeline on a server: uploaded unless it is there, run once, followed to its end."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api as api

from components import cluster
from pipelines.compile import version_name
from pipelines.graph import read_arguments, read_spec
from pipelines.kubeflow import Server

_EQUALS = 1  # of the server's filters
_FINISHED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")


@dataclass(frozen=True)
class Version:
    """A pipeline's version on a server.

    Attributes:
        name: says its content.
        pipeline_id: of its pipeline.
        version_id: its own.
    """

    name: str
    pipeline_id: str
    version_id: str

    def reference(self) -> Any:
        """Give it as runs and recurring runs name it."""
        return api.V2beta1PipelineVersionReference(
            pipeline_id=self.pipeline_id, pipeline_version_id=self.version_id
        )


def find_version(server: Server, compiled: Path) -> Version | None:
    """Give the version of a compiled pipeline, if one of its content is on the server.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    pipeline = _find_pipeline(server, read_spec(compiled)["pipelineInfo"]["name"])
    if pipeline is None:
        return None
    name = version_name(compiled)
    found = server.ask(
        server.client.pipelines.pipeline_service_list_pipeline_versions,
        pipeline_id=pipeline.pipeline_id,
        filter=_named(name),
    )
    if not found.pipeline_versions:
        return None
    return Version(name, pipeline.pipeline_id, found.pipeline_versions[0].pipeline_version_id)


def provide_version(server: Server, compiled: Path) -> Version:
    """Give the version of a compiled pipeline, uploaded unless one of its content is there.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    if found := find_version(server, compiled):
        return found
    name = version_name(compiled)
    pipeline = _provide_pipeline(server, read_spec(compiled)["pipelineInfo"]["name"])
    made = server.change(
        server.client.pipeline_uploads.upload_pipeline_version,
        find=lambda: find_version(server, compiled),
        uploadfile=str(compiled),
        name=name,
        pipelineid=pipeline.pipeline_id,
    )
    if isinstance(made, Version):
        return made
    return Version(name, pipeline.pipeline_id, made.pipeline_version_id)


def find_experiment(server: Server, name: str) -> str | None:
    """Give the id of an experiment, if it is there.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    listing = server.client.experiments.experiment_service_list_experiments
    found = server.ask(listing, filter=_named(name), **server.scope)
    return str(found.experiments[0].experiment_id) if found.experiments else None


def provide_experiment(server: Server, name: str) -> str:
    """Give the id of an experiment, made unless it is there.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    if found := find_experiment(server, name):
        return found
    made = server.change(
        server.client.experiments.experiment_service_create_experiment,
        find=lambda: find_experiment(server, name),
        experiment=api.V2beta1Experiment(display_name=name, namespace=server.namespace),
    )
    return made if isinstance(made, str) else str(made.experiment_id)


def start_run(
    server: Server, version: Version, compiled: Path, *, experiment: str, service_account: str
) -> Any:
    """Start a run with the arguments a pipeline was compiled with, and give it.

    Its name is its own, so that it is found where the answer to our asking got lost: it is never
    started twice.

    Args:
        server: where.
        version: what.
        compiled: the file it came from.
        experiment: name of the experiment, which is made if need be.
        service_account: what its pods may do.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    name = f"{version.name} {time.strftime('%Y-%m-%d %H:%M')} {secrets.token_hex(3)}"
    run = api.V2beta1Run(
        display_name=name,
        experiment_id=provide_experiment(server, experiment),
        pipeline_version_reference=version.reference(),
        runtime_config=api.V2beta1RuntimeConfig(parameters=read_arguments(compiled)),
        service_account=service_account or cluster.SERVICE_ACCOUNT,
    )

    def find() -> Any:
        listing = server.client.runs.run_service_list_runs
        found = server.ask(listing, filter=_named(name), experiment_id=run.experiment_id)
        return (found.runs or [None])[0]

    return server.change(server.client.runs.run_service_create_run, find=find, run=run)


def follow_run(
    server: Server,
    run_id: str,
    steps: set[str],
    say: Callable[[str], None],
    *,
    poll_seconds: float = 5.0,
) -> Any:
    """Say how a run and its steps go until it has ended, and give it.

    Args:
        server: where.
        run_id: which.
        steps: names of its steps; a server lists other nodes of the graph, too.
        say: gets a line for every change.
        poll_seconds: between two looks.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    shown: dict[str, str] = {}
    while True:
        run = server.ask(server.client.runs.run_service_get_run, run_id=run_id)
        states = {"run": ("run", run.state)} if run.state else {}
        for task in _tasks(run):
            if task.display_name in steps and task.state:
                states[task.task_id] = (task.display_name, task.state)
        for key, (name, state) in states.items():
            if shown.get(key) != state:
                shown[key] = state
                say(f"{name} {state.lower()}")
        if run.state in _FINISHED:
            return run
        time.sleep(poll_seconds)


def end_run(server: Server, run_id: str) -> None:
    """End a run that goes on.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    server.ask(server.client.runs.run_service_terminate_run, run_id=run_id)


def failures(run: Any, steps: set[str]) -> Iterator[str]:
    """Say in a line each what went wrong in a run."""
    named = [task for task in _tasks(run) if task.display_name in steps]
    for task in named:
        if task.state == "FAILED":
            yield f"{task.display_name} failed: {_cause(task)}"
    if run.error:
        yield f"the run failed: {_cause(run)}"


def tracked_at(run: Any) -> str:
    """Give the address of a run in MLflow, where the server's own plug-in has made it."""
    entries = ((run.plugins_output or {}).get("mlflow") or api.V2beta1PluginOutput()).entries or {}
    return next((str(e.value) for e in entries.values() if str(e.value).startswith("http")), "")


def steps_of(compiled: Path) -> set[str]:
    """Give the names of a pipeline's steps as a server shows them."""
    spec = read_spec(compiled)
    graphs = [spec["root"], *spec["components"].values()]
    tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()]
    return {
        task["taskInfo"]["name"]
        for task in tasks
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    }


def _tasks(run: Any) -> list[Any]:
    return (run.run_details and run.run_details.task_details) or []


def _cause(thing: Any) -> str:
    """Give the last line of what a server knows, which is where Python says what was wrong."""
    lines = ((thing.error and thing.error.message) or "").strip().splitlines()
    return lines[-1] if lines else "the server does not say why; its pod's log does"


def _find_pipeline(server: Server, name: str) -> Any:
    listing = server.client.pipelines.pipeline_service_list_pipelines
    found = server.ask(listing, filter=_named(name), **server.scope)
    return (found.pipelines or [None])[0]


def _provide_pipeline(server: Server, name: str) -> Any:
    # KFP's client makes a pipeline only together with a first version, which has no name of ours.
    return _find_pipeline(server, name) or server.change(
        server.client.pipelines.pipeline_service_create_pipeline,
        find=lambda: _find_pipeline(server, name),
        pipeline=api.V2beta1Pipeline(display_name=name, namespace=server.namespace),
    )


def _named(name: str) -> str:
    predicate = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})
