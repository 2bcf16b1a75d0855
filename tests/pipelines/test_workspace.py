"""One run at a time, in a folder that can be written."""

import subprocess
import sys

import pytest

from pipelines.workspace import UnusableWorkspace, Workspace


def test_second_run_is_refused_while_the_first_goes_on(tmp_path):
    place = Workspace(tmp_path)
    with place.occupy(), pytest.raises(UnusableWorkspace, match="another run is going on"):
        place.occupy().__enter__()
    with place.occupy():
        pass


def test_a_child_that_inherits_the_lock_keeps_the_workspace_occupied(tmp_path):
    place = Workspace(tmp_path)
    with place.occupy() as lock:
        code = "import sys; sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)
        )
    with pytest.raises(UnusableWorkspace, match="another run is going on"):
        place.occupy().__enter__()
    child.communicate()
    with place.occupy():
        pass


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(UnusableWorkspace, match="cannot be written"):
        Workspace(tmp_path / "taken").occupy().__enter__()


def test_runs_are_found(tmp_path):
    place = Workspace(tmp_path)
    with pytest.raises(ValueError, match="there is no run"):
        place.find_run()
    run = place.new_run()
    assert place.find_run() == place.find_run(run.run_id) == run
    with pytest.raises(ValueError, match="there is no run other"):
        place.find_run("other")


def test_tracking_store_is_a_file_unless_a_server_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Workspace(tmp_path).tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert Workspace(tmp_path).tracking_uri == "http://127.0.0.1:5000"
