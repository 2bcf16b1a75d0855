"""bartizan submit as a user meets it: what it says, how it ends, and that no secret leaves it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.workspace import Workspace
from tests.cluster.kubeflow_server import Fault

BARTIZAN = Path(sys.executable).with_name("bartizan")
SECRETS = {
    "KF_PIPELINES_TOKEN": "planted-token",
    "KF_PIPELINES_COOKIE": "planted-cookie",
    "AWS_ACCESS_KEY_ID": "planted-key",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "MLFLOW_TRACKING_URI": "http://planted-user:planted-password@127.0.0.1:9",
}


@pytest.fixture
def words(kubeflow, image_file):
    choices = ["--recipe", "tiny", "--images", str(image_file), "--pool", "cpu"]
    return ["submit", *choices, "--endpoint", kubeflow.address]


@pytest.fixture
def submit(kubeflow, words, monkeypatch):
    """Submit to a server that executes nothing."""
    kubeflow.executes = False
    # Trying a recipe's choices takes a second each time, and has tests of its own.
    monkeypatch.setattr("pipelines.settings.check_choices", lambda recipe: None)
    # Whoever starts tests in the background has them ignore Ctrl-C; a user has not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda *more: CliRunner().invoke(app, [*words, *more])
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def when_looked_at(kubeflow):
    """Do something once somebody has asked how the run is."""

    def act(action):
        run_service = kubeflow.get_run

        def look(identity):
            threading.Timer(0.1, action).start()
            kubeflow.get_run = run_service
            return run_service(identity)

        kubeflow.get_run = look

    return act


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_says_where_the_run_is(submit, kubeflow):
    result = submit()
    assert result.exit_code == 0, result.output
    (run,) = kubeflow.runs.values()
    assert f"{kubeflow.address}/#/runs/details/{run['run_id']}" in result.output
    (version,) = kubeflow.versions.values()
    assert version["display_name"] in result.output
    assert '"epochs": 2' in run["runtime_config"]["parameters"]["stage_one"]


def test_shows_mlflows_page_where_kubeflows_plugin_has_made_one(submit, kubeflow):
    page = "http://mlflow.example/#/experiments/1/runs/2"
    output = {"mlflow": {"entries": {"run_url": {"value": page, "render_type": "URL"}}}}
    kubeflow.given_to_runs = {"plugins_output": output}
    assert page in submit().output


def test_ctrl_c_only_looks_away(submit, kubeflow, when_looked_at):
    when_looked_at(press_ctrl_c)
    result = submit("--wait")
    (run,) = kubeflow.runs.values()
    assert result.exit_code == 130 and run["state"] == "RUNNING"
    assert result.stderr.startswith(f"bartizan: run {run['run_id']} goes on: http")
    assert "run running" in result.output


def test_ctrl_c_ends_the_run_where_that_is_wanted(submit, kubeflow, when_looked_at):
    when_looked_at(press_ctrl_c)
    result = submit("--wait", "--terminate-on-interrupt")
    (run,) = kubeflow.runs.values()
    assert result.exit_code == 130 and run["state"] == "CANCELED"
    assert result.stderr == f"bartizan: run {run['run_id']} is being ended\n"


def test_a_run_that_fails_ends_with_one_and_its_cause(submit, kubeflow):
    task = {"task_id": "1", "display_name": "prepare-data", "state": "FAILED"}
    task["error"] = {"code": 13, "message": "Traceback ...\nFileNotFoundError: no data"}
    other = {"task_id": "2", "display_name": "prepare-data-driver", "state": "SUCCEEDED"}
    details = {"task_details": [task, other]}
    kubeflow.given_to_runs = {"run_details": details, "state": "FAILED"}
    result = submit("--wait")
    assert result.exit_code == 1
    assert "prepare-data failed: FileNotFoundError: no data; see http" in result.stderr
    assert result.stderr.count("\n") == 1 and "driver" not in result.output


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("POST", "/runs", 500), "nothing came of it"),
        (Fault("POST", "/runs", 403), "refuses (403): fault 403"),
    ],
)
def test_trouble_is_one_line(submit, kubeflow, fault, message):
    kubeflow.faults.append(fault)
    result = submit()
    assert result.exit_code == 1 and not kubeflow.runs
    assert message in result.stderr and result.stderr.count("\n") == 1


def start(*words, cwd, **environment):
    """Run the command as a user does, and give what it said."""
    result = subprocess.run(
        [BARTIZAN, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_no_secret_leaves_the_command(kubeflow, words, tmp_path):
    """Planted in the environment, in an address and in a token's file; searched for in all that
    was said, sent and written."""
    kubeflow.executes = False
    kubeflow.token, kubeflow.cookie = "planted-token", "planted-cookie"
    token_file = tmp_path / "token"
    token_file.write_text("planted-token-in-a-file")
    output, errors = start(*words, "--token-file", token_file, cwd=tmp_path, **SECRETS)
    token_file.unlink()
    assert_nothing_planted(kubeflow, tmp_path, output, errors)


def test_no_token_leaves_the_file_by_which_the_server_knows_us(submit, kubeflow, tmp_path):
    kubeflow.token = "planted-token-in-a-file"
    token_file = tmp_path / "token"
    token_file.write_text(kubeflow.token)
    result = submit("--token-file", str(token_file))
    assert result.exit_code == 0, result.output
    token_file.unlink()
    assert_nothing_planted(kubeflow, tmp_path, result.output)


def assert_nothing_planted(kubeflow, folder, *said):
    """Search what was said, sent and written."""
    written = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    sent = repr((kubeflow.runs, kubeflow.versions, kubeflow.requests))
    for text in (*said, sent, *written):
        assert "planted" not in text


@pytest.mark.slow
def test_the_tiny_pipeline_runs_as_submitted(kubeflow, words, tmp_path):
    """All steps, the closing one too, with the settings of the version that was uploaded."""
    store = Workspace(tmp_path / "store")
    store.root.mkdir()
    environment = {"MLFLOW_TRACKING_URI": store.tracking_uri}
    kubeflow.environment = environment
    output, _ = start(*words, "--wait", cwd=tmp_path, **environment)
    assert "promote-model succeeded" in output and "robust_accuracy" in output
    client = mlflow.MlflowClient(store.tracking_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["kfp.pipeline_run_id"] for run in runs} == set(kubeflow.runs)
