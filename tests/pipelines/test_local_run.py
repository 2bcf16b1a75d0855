"""The whole pipeline on this machine, through KFP's own runner, as a user starts it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest

from components.evaluation.report import REPORT, load_report
from components.models.checkpoint import WEIGHTS, WORDS
from components.registry.verdict import VERDICT, load_verdict
from pipelines.workspace import RunFolder, Workspace

BARTIZAN = Path(sys.executable).with_name("bartizan")
STEPS = [
    "prepare-data",
    "train-stage-one",
    "fine-tune-stage-two",
    "adversarial-training",
    "prune",
    "evaluate-stage-one",
    "evaluate-stage-two",
    "evaluate-adversarial",
    "evaluate-attacks",
    "compare-models",
    "promote-model",
]
SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-key",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "AWS_ENDPOINT_URL": "http://somebody:planted-password@127.0.0.1:9",
    "KF_PIPELINES_TOKEN": "planted-token",
    "MLFLOW_TRACKING_PASSWORD": "planted-password",
    "SOMEBODY_ELSES_PASSWORD": "planted-elsewhere",
}
LOAD_IN_A_FRESH_PROCESS = """
import sys
import mlflow
import numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny/1")
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
"""


def start(*words, cwd: Path) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return subprocess.Popen(
        [BARTIZAN, "run", "--recipe", "tiny", *words],
        cwd=cwd,
        env=environment | SECRETS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore Ctrl-C; a user has not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def tracked(cwd: Path) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(Workspace(cwd / ".bartizan").tracking_uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "bartizan")
    return list(client.search_runs([experiment.experiment_id]))


def processes_of(folder: RunFolder) -> list[str]:
    """Give the command lines of live processes that carry the run's id in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if folder.run_id.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_text())
        except OSError:
            continue  # it has ended since, or is not ours
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("finished")
    output, errors = (process := start(cwd=cwd)).communicate()
    assert process.returncode == 0, errors
    return cwd, output + errors, Workspace(cwd / ".bartizan").find_run()


def test_table_verdict_and_page_are_shown(finished):
    _, output, folder = finished
    for word in ("train stage one", "adversarial", "prune", "clean", "pgd-20", "n = 64"):
        assert word in output
    assert "Verdict" in output and "bartizan ui" in output
    assert str(folder.path.name) in output and (folder.path / "report.html").is_file()


def test_every_step_is_a_nested_run_with_its_settings(finished):
    runs = {run.info.run_name: run for run in tracked(finished[0])}
    (parent,) = (run for run in runs.values() if run.data.tags["bartizan.role"] == "pipeline")
    assert runs.keys() - {parent.info.run_name} == set(STEPS)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for step in STEPS:
        assert runs[step].data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert runs[step].data.params
    assert runs["adversarial-training"].data.params["train.epochs"] == "2"
    assert runs["evaluate-attacks"].data.metrics["robust_accuracy"] >= 0


def test_curves_and_checkpoints_are_tracked(finished):
    client = mlflow.MlflowClient(Workspace(finished[0] / ".bartizan").tracking_uri)
    (run,) = (r for r in tracked(finished[0]) if r.info.run_name == "adversarial-training")
    curve = client.get_metric_history(run.info.run_id, "validation_robust_accuracy")
    assert [point.step for point in curve] == [1, 2]
    files = {file.path for file in client.list_artifacts(run.info.run_id, "checkpoint")}
    assert files == {f"checkpoint/{WEIGHTS}", f"checkpoint/{WORDS}"}


def test_pruned_model_is_narrower_on_disk_and_in_work(finished):
    reports = {}
    for path in finished[2].folders_with(REPORT):
        report, _ = load_report(path)
        reports[report.title] = report
    before, after = reports["adversarial-training"].costs, reports["prune"].costs
    assert all(after[cost] < before[cost] for cost in ("parameters", "flops", "size_bytes"))


def test_pruned_model_decides_as_the_gated_one(finished):
    (run,) = (r for r in tracked(finished[0]) if r.info.run_name == "prune")
    assert run.data.metrics["max_logit_difference"] < 1e-4
    assert run.data.metrics["sparsity"] > 0


def test_first_model_is_registered_under_the_alias_its_verdict_says(finished):
    cwd, _, folder = finished
    (verdict,) = map(load_verdict, folder.folders_with(VERDICT))
    client = mlflow.MlflowClient(Workspace(cwd / ".bartizan").tracking_uri)
    aliases = client.get_registered_model("tiny").aliases
    assert aliases == {"champion" if verdict.promoted else "challenger": 1}


def test_registered_model_predicts_in_a_fresh_process(finished, tmp_path):
    uri = Workspace(finished[0] / ".bartizan").tracking_uri
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((3, 1, 28, 28), np.float32))
    words = [uri, tmp_path / "images.npy", tmp_path / "logits.npy"]
    code = [sys.executable, "-P", "-c", LOAD_IN_A_FRESH_PROCESS]
    subprocess.run([*code, *words], cwd=tmp_path, check=True, capture_output=True)
    assert np.load(tmp_path / "logits.npy").shape == (3, 10)


def legible(path: Path) -> str:
    """Give all that a file says; databases and tables store it in pieces, and compressed."""
    if path.suffix == ".db":
        with closing(sqlite3.connect(path)) as store:
            return "\n".join(store.iterdump())
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return f"{table.schema.metadata} {table.to_pydict()}"
    return path.read_bytes().decode(errors="replace")


def test_no_secret_gets_into_anything_that_is_kept_or_said(finished):
    """Searched for: store, artifacts, reports, checkpoints, journal, log, events, pipeline."""
    cwd, said, folder = finished
    texts = {path: legible(path) for path in cwd.rglob("*") if path.is_file()}
    kinds = {path.name for path in texts}
    assert {"mlflow.db", "report.json", "report.html", "samples.parquet", "MLmodel"} <= kinds
    assert {folder.pipeline, folder.log, folder.events, folder.journal} <= texts.keys()
    assert "planted" not in said
    assert not [path for path, text in texts.items() if "planted" in text]


def test_failed_step_shows_its_cause(tmp_path):
    missing = json.dumps({"name": "folder", "root": "nowhere"})
    process = start("--set", f"data.source={missing}", cwd=tmp_path)
    _, errors = process.communicate()
    folder = Workspace(tmp_path / ".bartizan").find_run()
    assert process.returncode == 1
    assert "prepare-data failed: ValueError: " in errors and "nowhere" in errors
    assert "components/data/" in errors
    line = int(errors.partition("in line ")[2].split()[0])
    assert "nowhere" in folder.log.read_text().splitlines()[line - 1]
    assert {run.info.status for run in tracked(tmp_path)} == {"FAILED"}


def test_interrupt_ends_every_process_and_leaves_the_store_usable(tmp_path):
    process = start("--set", "stage_one.epochs=1000", cwd=tmp_path)
    place = Workspace(tmp_path / ".bartizan")
    deadline = time.monotonic() + 120
    while not list(place.root.glob("runs/*/events.jsonl")) or (
        '"done": 1' not in place.find_run().events.read_text().partition("train-stage-one")[2]
    ):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    folder = place.find_run()
    assert len(processes_of(folder)) > 1
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"run {folder.run_id} was stopped" in errors
    assert not processes_of(folder)
    statuses = {run.info.run_name: run.info.status for run in tracked(tmp_path)}
    assert statuses.pop("prepare-data") == "FINISHED"
    assert set(statuses.values()) == {"KILLED"}
    with place.occupy():
        pass
