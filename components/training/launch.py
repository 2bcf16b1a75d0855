"""A training on several nodes: a TrainJob of Kubeflow Trainer, made, watched and always removed."""

import hashlib
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from components import cluster
from components.config import Config, Range
from components.tracking import JOURNAL, PIPELINE_RUN, URI, Run
from components.training.config import TrainingConfig
from components.training.train_jobs import Refused, TrainJobs, in_cluster

NODES = "BARTIZAN_NODES"
"""Environment variable with the nodes of a training, as JSON text; without it there is one."""

_COMMAND = ["python", "-m", "torch.distributed.run", "-m", "components.training"]
_ATTEMPT = "bartizan/attempt"
_LONGEST_NAME = 40  # pods add to it, and none may have more than 63 letters
_DIGEST = 8  # letters of a name that tell steps apart, and as many that tell runs apart


@dataclass(frozen=True, kw_only=True)
class Nodes(Config):
    """Nodes that train one model together.

    Attributes:
        count: how many.
        image: that of their pods.
        cpu: that each asks for.
        memory: that each asks for, and may use at most.
        accelerator: resource by which the cluster knows the accelerators.
        accelerators: of each node; a process for each, or one on its CPUs.
        timeout_seconds: after which the training has failed; 0 lets it go on.
    """

    count: Annotated[int, Range(at_least=2)]
    image: str
    cpu: str
    memory: str
    accelerator: str
    accelerators: Annotated[int, Range(at_least=0)]
    timeout_seconds: Annotated[int, Range(at_least=0)] = 0

    @property
    def processes_per_node(self) -> int:
        """How many share the work of each node."""
        return max(self.accelerators, 1)


class TrainJobFailed(RuntimeError):
    """A TrainJob that did not end well; the message has its reason and what its pods said last."""


def nodes_wanted() -> Nodes | None:
    """Give the nodes that this step's pool has for one training, if it has several."""
    text = os.environ.get(NODES)
    return Nodes.from_json(text) if text else None


def train_on_nodes(
    settings: TrainingConfig,
    nodes: Nodes,
    *,
    data: Path,
    target: Path,
    initial: Path | None,
    run: Run,
    jobs: TrainJobs | None = None,
) -> dict[str, float]:
    """Train as `train` does, in the pods of a TrainJob that see this step's state folder.

    Args:
        settings: of the training.
        nodes: what pods to ask for.
        data: shards.
        target: receives the checkpoint.
        initial: checkpoint to start from.
        run: whose curves the pods continue.
        jobs: of the cluster; those of the cluster around this pod by default.

    Returns:
        The figures of the kept epoch.

    Raises:
        ValueError: there is no volume that this pod and the others share.
        TrainJobFailed: the training failed, was removed by somebody else or took too long.
        ConnectionError: Kubernetes did not answer for a minute.
    """
    from components.models.checkpoint import read_provenance  # loads torch

    if (shared := cluster.state_folder(run.name)) is None:
        raise ValueError(f"a training on several nodes needs a volume: set {cluster.STATE}")
    words = [settings.to_json(), _shared(data, shared / "data"), str(shared / "checkpoint")]
    words += ["--state", str(shared / "state"), "--step", run.name]
    if initial is not None:
        words += ["--initial", _shared(initial, shared / "initial")]
    body = describe_job(nodes, words, run)
    follow_job(body, jobs or in_cluster(), timeout_seconds=nodes.timeout_seconds)
    shutil.copytree(shared / "checkpoint", target, dirs_exist_ok=True)
    shutil.rmtree(shared)
    kept: dict[str, float] = read_provenance(target)["kept"]
    return kept


def describe_job(nodes: Nodes, words: list[str], run: Run) -> dict[str, Any]:
    """Describe a TrainJob.

    Its pods come from our runtime, which has their volumes, credentials and tolerations. It
    belongs to this pod, so Kubernetes itself removes it should this pod vanish without a word.

    Args:
        nodes: what pods to ask for.
        words: of the command line of `components.training`.
        run: of the step.
    """
    # Addresses and credentials come from the runtime; the notes' file is this pod's own.
    environment = {k: v for k, v in run.environment.items() if k not in (URI, JOURNAL)}
    resources = {"cpu": nodes.cpu, "memory": nodes.memory}
    limits = {"memory": nodes.memory}
    if nodes.accelerators:
        limits[nodes.accelerator] = resources[nodes.accelerator] = str(nodes.accelerators)
    spec: dict[str, Any] = {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": "TrainingRuntime",
            "name": cluster.TRAINING_RUNTIME,
        },
        "trainer": {
            "image": nodes.image,
            "command": _COMMAND,
            "args": words,
            "env": [{"name": key, "value": value} for key, value in environment.items()],
            "numNodes": nodes.count,
            "numProcPerNode": nodes.processes_per_node,
            "resourcesPerNode": {"requests": resources, "limits": limits},
        },
    }
    if nodes.timeout_seconds:
        spec["activeDeadlineSeconds"] = nodes.timeout_seconds
    metadata: dict[str, Any] = {"name": _job_name(run.name, os.environ.get(PIPELINE_RUN, ""))}
    metadata["labels"] = {_ATTEMPT: secrets.token_hex(8)}
    if pod := os.environ.get(cluster.POD_NAME):
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": os.environ[cluster.POD_UID]}
        metadata["ownerReferences"] = [owner]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": spec,
    }


def follow_job(
    body: dict[str, Any], jobs: TrainJobs, *, timeout_seconds: float, poll_seconds: float = 5.0
) -> None:
    """Make a TrainJob, print what its first pod says, and remove it, however it ends.

    Args:
        body: what `describe_job` gives.
        jobs: of the cluster.
        timeout_seconds: after which it has failed; 0 lets it go on.
        poll_seconds: between two looks.

    Raises:
        TrainJobFailed: it failed, was removed by somebody else or took too long.
        ConnectionError: Kubernetes did not answer for a while.
    """
    name, deadline = body["metadata"]["name"], time.monotonic() + (timeout_seconds or math.inf)
    took = f"it took longer than {timeout_seconds:g} s"
    with _removed_at_the_end(jobs, name):
        if not _make(body, jobs, deadline, poll_seconds):
            raise TrainJobFailed(
                f"TrainJob {name} was not made: {took} to remove one of that name, of an attempt "
                "before; see what holds it by kubectl describe trainjob"
            )
        print(f"TrainJob {name} made")
        conditions: dict[str, str] = {}
        while "Complete" not in conditions:
            time.sleep(poll_seconds)
            if (job := jobs.read(name)) is None:
                raise TrainJobFailed(f"TrainJob {name} was removed by somebody else")
            jobs.print_new_lines(name)
            conditions = _true_conditions(job)
            if "Failed" in conditions:
                raise TrainJobFailed(_explain(name, conditions["Failed"], jobs))
            if time.monotonic() > deadline:
                raise TrainJobFailed(_explain(name, took, jobs))
        print(f"TrainJob {name} complete")


def _shared(source: Path, place: Path) -> str:
    """Copy a folder to the volume that all pods see, unless an attempt before has done so."""
    if not place.exists():
        partial = place.with_name(f"{place.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(place)
    return str(place)


def _job_name(step: str, pipeline_run: str) -> str:
    """Give a name that is the same for each attempt, and no other step's of the run.

    The beginnings of two steps' names may be alike, so a digest of the whole one is in it.
    """
    words = step[: _LONGEST_NAME - 2 * (_DIGEST + 1)]
    digest = hashlib.sha256(step.encode()).hexdigest()[:_DIGEST]
    name = f"{words}-{digest}-{pipeline_run[:_DIGEST]}".lower()
    return re.sub("[^a-z0-9]+", "-", name).strip("-")


def _make(body: dict[str, Any], jobs: TrainJobs, deadline: float, poll_seconds: float) -> bool:
    """Make a job, and say whether it was made before the deadline.

    One of an attempt before, whose pod has gone, is removed first; a finalizer may hold it.
    """
    name, ours = body["metadata"]["name"], body["metadata"]["labels"][_ATTEMPT]
    told = False
    while not jobs.create(body):
        found = jobs.read(name)
        if found and found["metadata"].get("labels", {}).get(_ATTEMPT) == ours:
            return True  # the answer to our first asking was lost
        if time.monotonic() > deadline:
            return False
        jobs.delete(name)
        if not told:
            print(f"TrainJob {name} of an attempt before is removed first")
            told = True
        time.sleep(poll_seconds)
    return True


@contextmanager
def _removed_at_the_end(jobs: TrainJobs, name: str) -> Iterator[None]:
    try:
        yield
    finally:
        try:
            jobs.delete(name)
        except (OSError, Refused) as error:  # must not hide how the job ended
            print(f"TrainJob {name} could not be removed, its pod's end will do that: {error}")


def _true_conditions(job: dict[str, Any]) -> dict[str, str]:
    conditions = job.get("status", {}).get("conditions", [])
    return {
        condition["type"]: f"{condition.get('reason', '')}: {condition.get('message', '')}"
        for condition in conditions
        if condition["status"] == "True"
    }


def _explain(name: str, reason: str, jobs: TrainJobs) -> str:
    last = "".join(f"\n  {pod}: {line}" for pod, line in jobs.last_lines(name))
    return f"TrainJob {name} failed: {reason}{last}"
