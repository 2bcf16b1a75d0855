"""Runs in a real store: three situations, every ending, several writers at once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from components import tracking
from components.config import Choice, Config
from components.evaluation.report import Accuracy
from components.journal import append
from components.progress import EVENTS_FILE
from components.tracked_runs import flatten
from components.tracking import (
    close_pipeline_run,
    open_pipeline_run,
    step_run,
    write_for_steps,
)


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    learning_rate: float = 0.1
    attack: Choice | None = None
    suite: tuple[Choice, ...] = ()
    note: str = ""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "KFP_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(tracking.URI, raising=False)
    monkeypatch.delenv(tracking.JOURNAL, raising=False)


@pytest.fixture(scope="module")
def prepared_store(tmp_path_factory):
    """Make the tables once: that takes seconds."""
    path = tmp_path_factory.mktemp("prepared") / "mlflow.db"
    with warnings.catch_warnings(), contextlib.chdir(path.parent):
        warnings.simplefilter("ignore")  # MLflow's own, on SQLAlchemy
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(prepared_store, tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(prepared_store.read_bytes())
    monkeypatch.setenv(tracking.URI, f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def events(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_FILE, str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


def all_runs(store):
    found = store.search_runs([e.experiment_id for e in store.search_experiments()])
    return {run.info.run_name: run for run in found}


def test_without_a_store_a_step_runs_and_says_so_once(capsys, events, tmp_path):
    tracking._say_untracked.cache_clear()
    for name in ("one", "two"):
        with step_run(name, "train", Settings()) as run:
            assert run.name == name
            run.metrics({"loss": 1.0})
            run.folder(tmp_path, "nothing")
    assert capsys.readouterr().out.count("nothing is tracked") == 1
    assert [(e["step"], e["event"]) for e in events()] == [
        ("one", "start"),
        ("one", "end"),
        ("two", "start"),
        ("two", "end"),
    ]
    assert open_pipeline_run("p", "r") == ""
    close_pipeline_run("r", "FINISHED")


def test_without_a_store_mlflow_is_not_imported():
    code = (
        "import sys; from components import tracking; from components.config import Config\n"
        "with tracking.step_run('s', 'train', Config()) as run: run.metrics({'loss': 1.0})\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_step_alone_records_everything(store, tmp_path):
    settings = Settings(attack={"name": "pgd", "steps": 20}, note="n" * 7000)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights").write_text("w")
    with step_run("train-stage-one", "train", settings) as run:
        for epoch in range(1, 6):
            run.metrics({"loss": 1 / epoch, "robust_accuracy.pgd-20.as_is": 0.5}, step=epoch)
        run.folder(tmp_path / "checkpoint", "checkpoint")
    (tracked,) = all_runs(store).values()
    assert tracked.info.run_name == "train-stage-one"
    assert tracked.info.status == "FINISHED"
    params = tracked.data.params
    assert params["train.learning_rate"] == "0.1"
    assert params["train.attack"] == "pgd"
    assert params["train.attack.steps"] == "20"
    assert len(params["train.note"]) == 6000
    assert params["train.note"].endswith("…")
    points = store.get_metric_history(tracked.info.run_id, "loss")
    assert [(p.step, p.value) for p in points] == [(e, 1 / e) for e in range(1, 6)]
    whole = store.download_artifacts(tracked.info.run_id, "settings/train.json", str(tmp_path))
    assert Settings.from_json(Path(whole).read_text()) == settings
    kept = store.download_artifacts(tracked.info.run_id, "checkpoint/weights", str(tmp_path))
    assert Path(kept).read_text() == "w"


@pytest.mark.usefixtures("store")
def test_points_are_written_in_few_batches(monkeypatch):
    writes = []
    original = mlflow.MlflowClient.log_batch

    def counted(self, run_id, metrics=(), **rest):
        writes.extend([len(metrics)] if metrics else [])  # settings have none
        return original(self, run_id, metrics=metrics, **rest)

    with step_run("s", "train", Settings()) as run:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", counted)
        started = time.monotonic()
        for step in range(1500):
            run.metrics({"loss": float(step)}, step=step)
        seconds = time.monotonic() - started
    assert sum(writes) == 1500
    assert len(writes) <= 3 + seconds
    assert max(writes) <= 1000


def test_steps_are_nested_under_the_pipeline_run(store, monkeypatch, tmp_path):
    recipe = {"stage_one": Settings(learning_rate=0.5).to_json()}
    parent = open_pipeline_run("train-robust", "r1", recipe, artifact_root=str(tmp_path / "kept"))
    monkeypatch.setenv("KFP_RUN_ID", "r1")
    for name in ("one", "two"):
        with step_run(name, "train", Settings()):
            pass
    runs = all_runs(store)
    assert len(runs) == 3
    whole = runs["train-robust r1"]
    assert whole.info.run_id == parent
    assert whole.info.status == "RUNNING"
    assert whole.data.params["stage_one.learning_rate"] == "0.5"
    assert whole.info.artifact_uri.startswith(str(tmp_path / "kept"))
    for name in ("one", "two"):
        assert runs[name].data.tags["mlflow.parentRunId"] == parent
        assert runs[name].data.tags["kfp.pipeline_run_id"] == "r1"
    close_pipeline_run("r1", "FINISHED")
    assert store.get_run(parent).info.status == "FINISHED"


def test_the_first_step_opens_a_pipeline_run_that_nobody_opened(store, monkeypatch):
    monkeypatch.setenv("KFP_RUN_ID", "r2")
    for name in ("one", "two"):
        with step_run(name, "train", Settings()):
            pass
    runs = all_runs(store)
    assert set(runs) == {"r2", "one", "two"}
    assert runs["r2"].data.tags["bartizan.role"] == "pipeline"
    assert {runs[n].data.tags["mlflow.parentRunId"] for n in ("one", "two")} == {
        runs["r2"].info.run_id
    }


def test_a_run_that_the_server_made_is_resumed(store, monkeypatch):
    made = store.create_run(store.create_experiment("theirs"), run_name="task")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with step_run("s", "train", Settings()) as run:
        run.metrics({"loss": 1.0})
    (tracked,) = all_runs(store).values()
    assert tracked.info.run_id == made.info.run_id
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics == {"loss": 1.0}


def test_the_environment_may_name_the_experiment(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    with step_run("s", "train", Settings()):
        pass
    (tracked,) = all_runs(store).values()
    assert store.get_experiment(tracked.info.experiment_id).name == "ours"


def test_a_failure_is_tracked_and_names_the_line(store, events):
    with pytest.raises(ValueError, match="share"), step_run("s", "train", Settings()) as run:
        run.metrics({"loss": 1.0})
        Accuracy.of(2.0, 1)
    (tracked,) = all_runs(store).values()
    assert tracked.info.status == "FAILED"
    assert tracked.data.metrics == {"loss": 1.0}
    failed = events()[-1]
    assert failed["event"] == "failed"
    assert failed["error"].startswith("ValueError: an accuracy needs images")
    assert failed["where"].startswith("components/evaluation/report.py:")


def test_an_interrupt_kills_the_run(store):
    with pytest.raises(KeyboardInterrupt), step_run("s", "train", Settings()):
        raise KeyboardInterrupt
    assert all_runs(store)["s"].info.status == "KILLED"


STEPS = """
import os, sys, time
import mlflow.store.tracking.sqlalchemy_store  # loaded once, before the steps fork
from components import sending, tracking
from components.config import Config

sending._SECONDS_BETWEEN_WRITES = 0.0

def step(name):
    with tracking.step_run(name, "train", Config()) as run:
        for step in range(40):
            run.metrics({"loss": float(step), "accuracy": 0.5}, step=step)
        os.write(1, f"{name} {os.getpid()}\\n".encode())  # at once, beside the others
        if name.startswith("hang"):
            time.sleep(60)

children = []
for name in sys.argv[1:]:
    if not (child := os.fork()):
        step(name)
        sys.exit()
    children.append(child)
for child in children:
    print("ended", os.waitpid(child, 0)[1], flush=True)
"""


def test_four_steps_in_one_file_and_every_ending(store, monkeypatch):
    """All write at once; two are stopped, one of them without a chance to say so."""
    parent = open_pipeline_run("p", "r3")
    monkeypatch.setenv("KFP_RUN_ID", "r3")
    names = ("one", "two", "hang-term", "hang-kill")
    command = [sys.executable, "-W", "ignore", "-c", STEPS, *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = (process.stdout.readline().split() for _ in range(6))
        pids = {words[0]: int(words[1]) for words in lines if words[0] != "ended"}
        os.kill(pids["hang-term"], signal.SIGTERM)
        os.kill(pids["hang-kill"], signal.SIGKILL)
    runs = all_runs(store)
    for name in names:
        points = store.get_metric_history(runs[name].info.run_id, "loss")
        assert len(points) == 40 or (name == "hang-kill" and len(points) < 40)
    statuses = {name: runs[name].info.status for name in names}
    assert statuses == {
        "one": "FINISHED",
        "two": "FINISHED",
        "hang-term": "KILLED",
        "hang-kill": "RUNNING",
    }
    close_pipeline_run("r3", "FAILED")
    runs = all_runs(store)
    assert store.get_run(parent).info.status == "FAILED"
    assert runs["hang-kill"].info.status == "FAILED"
    assert runs["hang-term"].info.status == "KILLED"


NOTING_STEP = """
import sys, time
from pathlib import Path
from components import tracking
from components.config import Config
with tracking.step_run(sys.argv[1], "train", Config()) as run:
    for step in range(1500):
        run.metrics({"loss": float(step)}, step=step)
    run.folder(Path("kept"), "checkpoint")
    assert "mlflow" not in sys.modules
    print("ready", flush=True)
    if sys.argv[1] != "ends":
        time.sleep(60)
"""


def test_one_process_writes_what_steps_note_down(store, monkeypatch, tmp_path):
    """While they run, not only when they have ended; MLflow is loaded in none of them."""
    parent = open_pipeline_run("p", "r4", artifact_root=str(tmp_path / "artifacts"))
    monkeypatch.setenv("KFP_RUN_ID", "r4")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "weights").write_text("w")
    names = ("ends", "stopped", "vanishes")
    with write_for_steps(tmp_path / "journal.jsonl"):
        steps = {
            name: subprocess.Popen(
                [sys.executable, "-c", NOTING_STEP, name], stdout=subprocess.PIPE, text=True
            )
            for name in names
        }
        for process in steps.values():
            assert process.stdout.readline() == "ready\n"
        wait_until(lambda: {*names} < {*all_runs(store)})
        steps["stopped"].terminate()
        steps["vanishes"].kill()
        for process in steps.values():
            process.communicate()
    assert tracking.JOURNAL not in os.environ
    close_pipeline_run("r4", "FAILED")
    runs = all_runs(store)
    assert {name: runs[name].info.status for name in names} == {
        "ends": "FINISHED",
        "stopped": "KILLED",
        "vanishes": "FAILED",
    }
    for name in ("ends", "stopped"):
        run = runs[name]
        assert run.data.tags["mlflow.parentRunId"] == parent
        points = store.get_metric_history(run.info.run_id, "loss")
        assert [(p.step, p.value) for p in points] == [(n, n) for n in range(1500)]
        kept = store.download_artifacts(run.info.run_id, "checkpoint/weights", str(tmp_path))
        assert Path(kept).read_text() == "w"


def test_a_step_that_has_loaded_mlflow_writes_for_itself(store, tmp_path):
    with write_for_steps(tmp_path / "journal.jsonl"), step_run("s", "train", Settings()):
        assert mlflow.active_run().info.run_name == "s"
    assert all_runs(store)["s"].info.status == "FINISHED"
    assert mlflow.active_run() is None


def test_notes_that_cannot_be_written_are_an_error(store, monkeypatch, tmp_path):
    monkeypatch.setenv(tracking.URI, "file:///nowhere")
    with pytest.raises(mlflow.MlflowException), write_for_steps(tmp_path / "journal.jsonl"):
        append(
            tmp_path / "journal.jsonl",
            "s",
            "author",
            {"kind": "open", "run_id": "", "pipeline_run": ""},
        )
    assert not all_runs(store)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_flatten():
    value = {"a": None, "b": {"name": "pgd", "steps": 2, "loss": {"name": "dlr"}}, "c": [1, "x"]}
    assert flatten("train", value) == {
        "train.a": "null",
        "train.b": "pgd",
        "train.b.steps": "2",
        "train.b.loss": "dlr",
        "train.c": '[1, "x"]',
    }
