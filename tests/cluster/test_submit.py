"""KFP's own client against a server: a pipeline is uploaded once, run once, and followed."""

import threading
import time

import pytest

from pipelines.kubeflow import TOKEN, Access, Server, ServerTrouble
from pipelines.submit import (
    end_run,
    failures,
    follow_run,
    provide_version,
    start_run,
    steps_of,
)
from tests.cluster.kubeflow_server import Fault

STEPS = {"divide-numbers"}


def connect(kubeflow, **access):
    return Server(Access(kubeflow.address, **access))


def start(kubeflow, file):
    server = connect(kubeflow)
    version = provide_version(server, file)
    run = start_run(server, version, file, experiment="tests", service_account="")
    return server, run.run_id


def test_a_run_is_executed_and_followed_to_its_end(kubeflow, compiled):
    said = []
    server, run_id = start(kubeflow, compiled())
    run = follow_run(server, run_id, STEPS, said.append, poll_seconds=0.1)
    assert run.state == "SUCCEEDED"
    assert said[-2:] == ["run succeeded", "divide-numbers succeeded"]
    assert kubeflow.runs[run_id]["service_account"] == "bartizan-pipelines"
    assert kubeflow.runs[run_id]["runtime_config"]["parameters"] == {"above": "6", "below": "2"}


def test_a_failure_says_its_cause(kubeflow, compiled):
    server, run_id = start(kubeflow, compiled(below="0"))
    run = follow_run(server, run_id, STEPS, print, poll_seconds=0.1)
    assert run.state == "FAILED"
    assert list(failures(run, STEPS)) == [
        "divide-numbers failed: ZeroDivisionError: division by zero"
    ]


def test_a_run_is_ended(kubeflow, compiled):
    server, run_id = start(kubeflow, compiled(below="100000"))
    while kubeflow.runs[run_id]["state"] != "RUNNING":
        time.sleep(0.05)
    end_run(server, run_id)
    assert follow_run(server, run_id, STEPS, print, poll_seconds=0.1).state == "CANCELED"


def test_a_version_is_reused_as_long_as_its_content_is_the_same(kubeflow, compiled):
    kubeflow.executes = False
    for below in ("2", "2", "3", "2"):
        start(kubeflow, compiled(below))
    assert len(kubeflow.runs) == 4 and len(kubeflow.versions) == 2
    assert len(kubeflow.pipelines) == 1 and len(kubeflow.experiments) == 1
    names = {version["display_name"] for version in kubeflow.versions.values()}
    assert all(name.startswith("division-") and len(name) == 21 for name in names)


@pytest.mark.parametrize("kind", ["lost", 500, 503, 504, "refused"])
@pytest.mark.parametrize("path", ["runs", "pipelines", "upload_version", "experiments"])
def test_nothing_is_made_twice_where_an_answer_gets_lost(kubeflow, compiled, path, kind):
    """Where it was made all the same it is found; else nobody asks again, and says so."""
    kubeflow.executes = False
    kubeflow.faults.append(Fault("POST", f"/{path}", kind))
    if kind == "lost":
        start(kubeflow, compiled())
    else:
        with pytest.raises(ServerTrouble, match="was not asked again, and nothing came of it"):
            start(kubeflow, compiled())
    made = {
        "runs": kubeflow.runs,
        "pipelines": kubeflow.pipelines,
        "upload_version": kubeflow.versions,
        "experiments": kubeflow.experiments,
    }[path]
    assert len(made) == (1 if kind == "lost" else 0)


def test_an_answer_that_comes_too_late_starts_no_second_run(kubeflow, compiled, monkeypatch):
    kubeflow.executes = False
    monkeypatch.setattr(Server, "limits", (5.0, 5.0))
    kubeflow.faults.append(Fault("POST", "/runs", "slow"))
    _, run_id = start(kubeflow, compiled())
    assert list(kubeflow.runs) == [run_id]


@pytest.mark.parametrize("kind", [500, 502, 503, 429, "refused"])
def test_questions_are_asked_again(kubeflow, compiled, kind):
    kubeflow.executes = False
    kubeflow.faults.append(Fault("GET", "", kind, times=2))
    start(kubeflow, compiled())
    assert len(kubeflow.runs) == 1


def test_too_many_requests_are_asked_again(kubeflow, compiled):
    kubeflow.executes = False
    kubeflow.faults.append(Fault("POST", "/runs", 429, times=2))
    start(kubeflow, compiled())
    assert len(kubeflow.runs) == 1


def test_a_server_that_stays_broken_is_one_line(kubeflow):
    kubeflow.faults.append(Fault("GET", "healthz", 500, times=99))
    with pytest.raises(ServerTrouble, match="does not answer as it should: fault 500") as caught:
        connect(kubeflow)
    assert "\n" not in str(caught.value)


def test_nobody_there(kubeflow):
    kubeflow.address = "http://127.0.0.1:9"
    with pytest.raises(ServerTrouble, match="does not answer as it should: NewConnectionError"):
        connect(kubeflow)


def test_tokens(kubeflow, monkeypatch, tmp_path):
    kubeflow.token = "right"
    with pytest.raises(ServerTrouble, match=r"refuses the token \(401\): it is missing, wrong or"):
        connect(kubeflow)
    monkeypatch.setenv(TOKEN, "wrong\n")
    with pytest.raises(ServerTrouble, match="401"):
        connect(kubeflow)
    assert kubeflow.count("GET", "healthz") == 2  # neither was asked again
    monkeypatch.setenv(TOKEN, "right\n")
    connect(kubeflow)


def test_a_cookie(kubeflow, monkeypatch):
    kubeflow.cookie = "session=42"
    monkeypatch.setenv("KF_PIPELINES_COOKIE", "session=42")
    connect(kubeflow)


def test_a_token_file_is_read_anew_when_the_cluster_renews_it(kubeflow, compiled, tmp_path):
    kubeflow.token, kubeflow.executes = "first", False
    file = tmp_path / "token"
    file.write_text("first")
    server = connect(kubeflow, token_file=file)
    kubeflow.token = "second"
    with pytest.raises(ServerTrouble, match="wrong or has expired"):
        provide_version(server, compiled())
    file.write_text("second")
    assert provide_version(server, compiled())


def test_a_token_that_expires_while_waiting(kubeflow, compiled, monkeypatch):
    kubeflow.token, kubeflow.executes = "right", False
    monkeypatch.setenv(TOKEN, "right")
    server, run_id = start(kubeflow, compiled())
    threading.Timer(0.3, setattr, (kubeflow, "token", "another")).start()
    with pytest.raises(ServerTrouble, match="has expired"):
        follow_run(server, run_id, STEPS, print, poll_seconds=0.05)


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access(""), "there is no server: give --endpoint, or set KF_PIPELINES_ENDPOINT"),
        (Access("kubeflow"), "must start with http:// or https://"),
        (Access("https://me:secret@host"), "must not carry a password; set KF_PIPELINES_TOKEN"),
        (Access("me:secret@host:8888"), "must not carry a password"),
    ],
)
def test_wrong_addresses(access, message, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ValueError, match=message) as caught:
        Server(access)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_said_by_name(kubeflow, tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nowhere"):
        connect(kubeflow, ca_file=tmp_path / "nowhere")


def test_steps_are_those_that_have_a_pod(compiled):
    assert steps_of(compiled()) == STEPS
