"""A TrainJob is made, listened to and always removed, whatever happens to it or to us."""

import os
import signal
import threading
from dataclasses import replace

import pytest

from components import cluster
from components.endings import termination_as_exit
from components.tracking import Run
from components.training.launch import (
    NODES,
    Nodes,
    TrainJobFailed,
    describe_job,
    follow_job,
    nodes_wanted,
    train_on_nodes,
)
from components.training.train_jobs import Refused
from tests.cluster.kubeflow_server import Fault
from tests.cluster.kubernetes_server import KubernetesServer

NODES_OF_TWO = Nodes(
    count=2,
    image="registry.example/bartizan@sha256:0",
    cpu="4",
    memory="16Gi",
    accelerator="nvidia.com/gpu",
    accelerators=8,
    timeout_seconds=3600,
)
PATH = "/trainjobs"


@pytest.fixture
def kubernetes(tmp_path, monkeypatch):
    monkeypatch.setattr("components.training.train_jobs._SECONDS_BETWEEN_QUESTIONS", 0.02)
    monkeypatch.setenv("KFP_RUN_ID", "0123456789abcdef")
    server = KubernetesServer(tmp_path)
    yield server
    server.close()


def body(step="adversarial-training"):
    return describe_job(NODES_OF_TWO, ["{}", "data", "checkpoint"], Run(step))


def held_by_an_attempt_before(kubernetes, **metadata):
    name = body()["metadata"]["name"]
    metadata |= {"name": name, "labels": {"bartizan/attempt": "old"}}
    kubernetes.jobs[name] = {"metadata": metadata}


def follow(kubernetes, *, timeout_seconds=0.0, patience_seconds=60.0):
    follow_job(
        body(),
        kubernetes.train_jobs(patience_seconds),
        timeout_seconds=timeout_seconds,
        poll_seconds=0.02,
    )


def test_what_is_asked_for(monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "0123456789abcdef")
    monkeypatch.setenv(cluster.POD_NAME, "launcher")
    monkeypatch.setenv(cluster.POD_UID, "42")
    job = body()
    name = job["metadata"]["name"]
    assert name.startswith("adversarial-training-") and name.endswith("-01234567")
    assert body()["metadata"]["name"] == name  # which the next attempt takes over
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "launcher", "uid": "42"}
    assert job["metadata"]["ownerReferences"] == [owner]
    assert job["spec"]["runtimeRef"]["name"] == "bartizan-torch"
    assert job["spec"]["activeDeadlineSeconds"] == 3600
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    asked = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"]["requests"] == asked
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "8"}
    assert trainer["command"][:3] == ["python", "-m", "torch.distributed.run"]


def test_names_that_kubernetes_takes():
    for step in ("Train_Ünder.attack", "a" * 100, "train-digits-0"):
        name = body(step)["metadata"]["name"]
        assert len(name) <= 40 and name.strip("-") == name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_steps_whose_names_begin_alike_have_jobs_of_their_own():
    steps = [f"train-trades-with-awp-and-averaging-{number}" for number in range(3)]
    steps += ["train-digits", "train_digits"]
    assert len({body(step)["metadata"]["name"] for step in steps}) == len(steps)


def test_the_official_model_knows_every_field():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    job = body()
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_success_prints_what_the_first_pod_said_once(kubernetes, capsys):
    kubernetes.outcomes = [{}, {}, {}, {"Complete": "AllDone: well"}]
    kubernetes.said = {"node-0": ["epoch 1", "epoch 2"], "node-1": ["quiet"]}
    follow(kubernetes)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == ["epoch 1", "epoch 2"] and lines[-1].endswith("complete")
    assert not kubernetes.jobs and len(kubernetes.deleted) == 1


def test_failure_has_reason_message_and_last_words_of_every_pod(kubernetes):
    kubernetes.outcomes = [{}, {"Failed": "BackoffLimitExceeded: a pod failed"}]
    kubernetes.said = {"node-0": ["out of memory"], "node-1": ["connection reset"], "node-2": None}
    with pytest.raises(TrainJobFailed) as caught:
        follow(kubernetes)
    for words in ("BackoffLimitExceeded: a pod failed", "node-0: out of memory", "node-1: conn"):
        assert words in str(caught.value)
    assert not kubernetes.jobs


def test_timeout(kubernetes):
    kubernetes.outcomes = [{}]
    with pytest.raises(TrainJobFailed, match=r"it took longer than 0\.3 s"):
        follow(kubernetes, timeout_seconds=0.3)
    assert not kubernetes.jobs


def test_interruption(kubernetes):
    kubernetes.outcomes = [{}]
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit), termination_as_exit():
        follow(kubernetes)
    assert not kubernetes.jobs and kubernetes.deleted


def test_one_of_an_attempt_before_is_replaced(kubernetes, capsys):
    held_by_an_attempt_before(kubernetes)
    follow(kubernetes)
    assert len(kubernetes.deleted) == 2 and not kubernetes.jobs
    assert capsys.readouterr().out.count("of an attempt before is removed first") == 1


def test_one_of_an_attempt_before_that_is_held_is_waited_for_no_longer_than_allowed(kubernetes):
    held_by_an_attempt_before(kubernetes, finalizers=["example.com/keep"])
    with pytest.raises(TrainJobFailed, match=r"was not made: it took longer than 0\.3 s to remove"):
        follow(kubernetes, timeout_seconds=0.3)


@pytest.mark.parametrize("kind", ["lost", 500, 503, 429, "refused"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_moment_without_kubernetes_is_waited_out(kubernetes, method, kind):
    """Where the job was made but the answer got lost, it is taken for ours and not made again."""
    kubernetes.faults.append(Fault(method, PATH, kind, times=2))
    follow(kubernetes)
    assert not kubernetes.jobs and len(kubernetes.deleted) == 1


def test_a_lost_connection_ends_the_step_and_removes_the_job_when_it_is_back(kubernetes):
    kubernetes.outcomes = [{}]
    kubernetes.faults.append(Fault("GET", PATH, "refused", times=10**9))
    with pytest.raises(ConnectionError, match="Kubernetes does not answer"):
        follow(kubernetes, patience_seconds=0.2)
    assert not kubernetes.jobs


def test_a_connection_that_stays_lost_says_so_and_hides_nothing(kubernetes, capsys):
    kubernetes.outcomes = [{"Failed": "Reason: message"}]
    kubernetes.faults.append(Fault("DELETE", PATH, "refused", times=10**9))
    with pytest.raises(TrainJobFailed, match="Reason: message"):
        follow(kubernetes, patience_seconds=0.2)
    assert "could not be removed, its pod's end will do that" in capsys.readouterr().out


def test_removed_by_somebody_else(kubernetes):
    kubernetes.outcomes = [{}]
    threading.Timer(0.3, kubernetes.jobs.clear).start()
    with pytest.raises(TrainJobFailed, match="was removed by somebody else"):
        follow(kubernetes)


def test_no_permission(kubernetes):
    kubernetes.faults.append(Fault("POST", PATH, 403))
    with pytest.raises(Refused, match=r"Kubernetes refuses \(403\): fault 403"):
        follow(kubernetes)


def test_pods_that_may_not_be_listened_to_still_train(kubernetes):
    kubernetes.faults.append(Fault("GET", "/pods", 403, times=10**9))
    follow(kubernetes)


def test_nodes_come_from_the_pool(monkeypatch):
    monkeypatch.delenv(NODES, raising=False)
    assert nodes_wanted() is None
    monkeypatch.setenv(NODES, NODES_OF_TWO.to_json())
    assert nodes_wanted() == NODES_OF_TWO


def test_without_a_shared_volume_it_is_refused(monkeypatch, tmp_path):
    from components.training.config import TrainingConfig

    monkeypatch.delenv(cluster.STATE, raising=False)
    settings = TrainingConfig(backbone="lenet5", objective="cross_entropy")
    places = {"data": tmp_path, "target": tmp_path, "initial": None}
    with pytest.raises(ValueError, match="needs a volume: set BARTIZAN_STATE"):
        train_on_nodes(settings, NODES_OF_TWO, **places, run=Run("train"))


@pytest.mark.slow
def test_two_nodes_train_one_model_by_the_entry_of_a_pod(
    kubernetes, digits_shards, tmp_path, monkeypatch
):
    """Each pod is a process here, with the variables that Kubeflow Trainer gives."""
    from components.models.checkpoint import load_checkpoint
    from components.training.config import TrainingConfig

    kubernetes.outcomes = None
    monkeypatch.setenv(cluster.STATE, str(tmp_path / "shared"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = TrainingConfig(backbone="lenet5", objective="cross_entropy", epochs=2)
    kept = train_on_nodes(
        settings,
        replace(NODES_OF_TWO, accelerators=0),
        data=digits_shards,
        target=tmp_path / "checkpoint",
        initial=None,
        run=Run("train-stage-one"),
        jobs=kubernetes.train_jobs(),
    )
    logs = [file.read_text() for file in sorted(tmp_path.glob("pod-*.txt"))]
    assert len(logs) == 2 and kubernetes.deleted
    assert kept["validation_clean_accuracy"] > 0.8, logs
    load_checkpoint(tmp_path / "checkpoint")
    assert not list((tmp_path / "shared").rglob("*.parquet"))
