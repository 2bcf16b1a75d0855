"""bartizan doctor: finds what a step would fail on, says what to do, and keeps secrets."""

import importlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import typer
from typer.testing import CliRunner

from pipelines import doctor as rooms

app = typer.Typer()
app.command()(rooms.doctor)
SETTINGS = ("MLFLOW_", "AWS_", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "TORCH_HOME")
PLANTED = "planted-secret"
LONG = PLANTED * 30  # more than a finding shows, as tokens are


@pytest.fixture
def clean(monkeypatch):
    """An environment that names no server; what a check sets in it does not last."""
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    for name, value in rooms._PATIENCE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def doctor(place, *words):
    """Give the exit code, the findings by what was checked, and everything that was printed."""
    result = CliRunner().invoke(app, ["--workspace", str(place), "--json", *words])
    findings = json.loads(result.stdout.splitlines()[-1])
    return result.exit_code, {finding["check"]: finding for finding in findings}, result.output


def test_all_is_well(clean, tmp_path):
    code, findings, _ = doctor(tmp_path)
    assert code == 0
    for name in ("torch", "kfp", "mlflow"):
        assert findings[name]["found"] == importlib.import_module(name).__version__
    assert all(finding["grade"] != "fail" for finding in findings.values())
    assert str(tmp_path) in findings["workspace"]["found"]
    assert list(tmp_path.iterdir()) == []


def test_people_read_lines(clean, tmp_path):
    result = CliRunner().invoke(app, ["--workspace", str(tmp_path / "new")])
    assert result.exit_code == 0
    assert f"ok   workspace   {tmp_path / 'new'}, " in result.output
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written(clean):
    code, findings, _ = doctor("/proc/workspace")
    assert code == 1
    assert findings["workspace"]["grade"] == "fail"
    assert "mount a volume on /proc/workspace" in findings["workspace"]["advice"]


def test_a_library_that_does_not_load(clean, tmp_path):
    clean.setitem(importlib.sys.modules, "torchvision", None)  # its import now fails
    code, findings, _ = doctor(tmp_path)
    assert code == 1
    assert findings["torchvision"]["grade"] == "fail"
    assert "matching versions" in findings["torchvision"]["advice"]
    assert findings["torch"]["grade"] == "ok"


def test_a_store_in_a_file(clean, tmp_path):
    clean.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    code, findings, _ = doctor(tmp_path)
    assert (code, findings["tracking"]["grade"]) == (0, "ok")


def test_a_server_that_is_away(clean, tmp_path):
    clean.setenv("MLFLOW_TRACKING_URI", f"http://someone:{PLANTED}@127.0.0.1:9")
    code, findings, printed = doctor(tmp_path)
    assert (code, findings["tracking"]["grade"]) == (1, "fail")
    assert "check MLFLOW_TRACKING_URI" in findings["tracking"]["advice"]
    assert PLANTED not in printed


class Refusing(BaseHTTPRequestHandler):
    """Answers everything with 401, and tells what it was told, as careless servers do."""

    def do_GET(self):
        self.server.heard.append(self.headers["Authorization"])
        body = f"no right for {self.headers['Authorization']}".encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *words):
        pass


def test_a_server_that_refuses_the_token(clean, tmp_path):
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.heard = []
        threading.Thread(target=server.serve_forever).start()
        clean.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        clean.setenv("MLFLOW_TRACKING_TOKEN", LONG)
        code, findings, printed = doctor(tmp_path)
        server.shutdown()
    assert f"Bearer {LONG}" in server.heard
    assert (code, findings["tracking"]["grade"]) == (1, "fail")
    assert "no right for Bearer ***" in findings["tracking"]["found"]
    assert PLANTED not in printed


def test_a_bucket(clean, bucket, tmp_path):
    code, findings, _ = doctor(tmp_path, "--s3", f"{bucket}/shards")
    assert (code, findings["s3"]["found"]) == (0, f"{bucket}/shards is empty")


def test_a_bucket_with_wrong_credentials(clean, bucket, tmp_path):
    clean.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    code, findings, printed = doctor(tmp_path, "--s3", bucket)
    assert (code, findings["s3"]["grade"]) == (1, "fail")
    assert "does not accept the credentials" in findings["s3"]["found"]
    assert PLANTED not in printed


def test_a_server_of_buckets_that_nobody_tried(clean, tmp_path):
    clean.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, findings, _ = doctor(tmp_path)
    assert (code, findings["s3"]["grade"]) == (0, "warn")


def test_an_accelerator_that_should_be_here(clean, tmp_path):
    if importlib.import_module("torch").cuda.is_available():
        pytest.skip("there is one")
    clean.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    code, findings, _ = doctor(tmp_path)
    assert (code, findings["cuda"]["grade"]) == (0, "warn")
    assert "nvidia.com/gpu" in findings["cuda"]["advice"]


def test_more_threads_than_processors(clean):
    finding = rooms._check_threads(10_000)
    assert finding.grade == "warn" and "OMP_NUM_THREADS=" in finding.advice
    assert rooms._check_threads(1).grade == "ok"


@pytest.mark.parametrize(
    ("text", "processors"), [("150000 100000\n", 1.5), ("max 100000\n", float("inf"))]
)
def test_the_share_of_a_container_is_read(tmp_path, text, processors):
    assert rooms._quota(tmp_path) == float("inf")  # no control groups here
    (tmp_path / "cpu.max").write_text(text)
    assert rooms._quota(tmp_path) == processors


def test_an_address_of_another_kind_is_wrong_usage(tmp_path):
    result = CliRunner().invoke(app, ["--s3", "https://bucket"])
    assert result.exit_code == 2
    assert result.output == "bartizan: --s3 must be s3://BUCKET/PREFIX, got https://bucket\n"
