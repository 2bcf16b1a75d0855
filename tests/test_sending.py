"""A real server that goes away and comes back: a step waits for nothing, and nothing is lost."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import warnings

import mlflow
import pytest

from components import sending
from components.journal import append
from components.tracked_runs import MOST_POINTS, URI

# Imports once; then serves, in a new process each time, from "start" to "stop".
SERVER = """
import os, signal, sys
from mlflow.server import app
for line in sys.stdin:
    if line != "start\\n":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif not (child := os.fork()):
        app.run(port=int(sys.argv[1]), threaded=True)
    print("done", flush=True)
"""

# Tells as many points as it is told to, and says when it has.
STEP = """
import sys
from components import sending, tracking
from components.config import Config
sending._FIRST_PAUSE, sending._LONGEST_PAUSE, sending._LAST_SECONDS = 0.05, 0.2, 0.5
done = 0
with tracking.step_run("train", "train", Config()) as run:
    for line in sys.stdin:
        for step in range(done, done + int(line)):
            run.metrics({"loss": float(step), "accuracy": 0.5}, step=step)
        done += int(line)
        print("told", flush=True)
"""


class Server:
    """A tracking server that can be stopped and started."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        environment = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
        )

    def tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        while self.process.stdout.readline() != "done\n":  # Flask has something to say as well
            pass

    def start(self):
        self.tell("start")

        def answers():
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"{self.uri}/health", timeout=60).status == 200

        wait_until(answers)

    def stop(self):
        self.tell("stop")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with warnings.catch_warnings(), contextlib.chdir(folder):
        warnings.simplefilter("ignore")  # MLflow's own, on SQLAlchemy
        mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    made = Server(folder)
    made.store = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    yield made
    made.process.communicate()


class Step:
    """A step in a process of its own, and what it printed."""

    def __init__(self, server, folder, run):
        self.log = folder / "log"
        environment = {URI: server.uri, "KFP_RUN_ID": run, "TMPDIR": str(folder)}
        environment["PYTHONUNBUFFERED"] = "1"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", STEP],
                stdin=subprocess.PIPE,
                stdout=log,
                text=True,
                env={**os.environ, **environment},
            )
        self.told = 0

    def tell(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        self.told += 1
        wait_until(lambda: self.log.read_text().count("told") == self.told)

    def says(self, words):
        return words in self.log.read_text()

    def end(self):
        self.process.stdin.close()
        return self.process.wait()


def runs_of(server, run):
    experiments = [e.experiment_id for e in server.store.search_experiments()]
    found = server.store.search_runs(experiments, f"tags.`kfp.pipeline_run_id` = '{run}'")
    return {run.info.run_name: run.info for run in found}


def steps_of(server, run, curve="loss"):
    if "train" not in (runs := runs_of(server, run)):
        return []
    history = server.store.get_metric_history(runs["train"].run_id, curve)
    return sorted(point.step for point in history)


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_outage_stops_no_step_and_loses_nothing(server, tmp_path):
    server.start()
    step = Step(server, tmp_path, "outage")
    step.tell(3)
    wait_until(lambda: steps_of(server, "outage"))
    server.stop()
    step.tell(1200)  # more than goes into one write
    wait_until(lambda: step.says("cannot be reached"))
    step.tell(3)
    server.start()
    wait_until(lambda: step.says("answers again"))
    step.tell(3)
    assert step.end() == 0
    server.stop()
    for curve in ("loss", "accuracy"):
        assert steps_of(server, "outage", curve) == list(range(1209))
    assert runs_of(server, "outage")["train"].status == "FINISHED"
    assert step.log.read_text().count("cannot be reached") == 1
    assert not list(tmp_path.glob("unsent*"))


def test_what_an_outage_leaves_is_sent_later(server, tmp_path, monkeypatch, capsys):
    """No server from the first moment to the last: then not even the run exists."""
    step = Step(server, tmp_path, "later")
    step.tell(5)
    assert step.end() == 0
    (unsent,) = tmp_path.glob("unsent-*.jsonl")
    assert step.says(f"python -m components.sending {unsent}")
    assert not runs_of(server, "later")
    monkeypatch.setenv(URI, server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sys, "argv", ["sending", str(unsent)])
    monkeypatch.setattr(sending, "_LAST_SECONDS", 0.0)
    assert sending.main() == 1
    assert "could not be reached" in capsys.readouterr().out
    server.start()
    assert sending.main() == 0
    server.stop()
    assert steps_of(server, "later") == list(range(5))
    assert runs_of(server, "later")["train"].status == "FINISHED"
    assert not unsent.exists()


def test_a_refusal_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setenv(URI, server.store.tracking_uri)
    journal = tmp_path / "notes.jsonl"
    points = {"kind": "metrics", "values": {"not a name?": 1.0}, "step": 0, "time": 0.0}
    with (
        pytest.raises(mlflow.MlflowException, match="Invalid"),
        sending.sent(journal, tmp_path / "unsent.jsonl") as check,
    ):
        append(journal, "s", "a", {"kind": "open", "run_id": "", "pipeline_run": ""})
        append(journal, "s", "a", points)
        wait_until(lambda: check() or False)
    assert not list(tmp_path.glob("unsent*"))


def test_writes_are_bounded_and_in_order():
    sender = sending._Sender("s", "a")
    for name, size in (("a", 600), ("b", 400), ("c", 1), ("d", MOST_POINTS + 1)):
        values = {f"{name}{n}": 0.0 for n in range(size)}
        sender.waiting.append({"kind": "metrics", "values": values})
    counts = []
    while sender.waiting:
        counts.append(sender._next_points())
        del sender.waiting[: counts[-1]]
    assert counts == [2, 1, 1]


@pytest.mark.parametrize(
    ("words", "uri", "message"),
    [
        (["missing.jsonl"], "http://127.0.0.1:1", "there is no file missing.jsonl"),
        (["missing.jsonl"], "", "MLFLOW_TRACKING_URI must be set"),
    ],
)
def test_wrong_usage(words, uri, message, monkeypatch, capsys):
    monkeypatch.setenv(URI, uri)
    monkeypatch.setattr(sys, "argv", ["sending", *words])
    with pytest.raises(SystemExit) as ended:
        sending.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
