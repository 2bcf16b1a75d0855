"""The command line as a user meets it: one line and exit code 2 for what was said wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components import images
from pipelines.__main__ import app
from tests.cluster.conftest import DIGESTS

BARTIZAN = Path(sys.executable).with_name("bartizan")


def bartizan(*words, cwd, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [BARTIZAN, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_list_names_pipelines_and_recipes(tmp_path):
    result = bartizan("list", cwd=tmp_path)
    assert result.returncode == 0
    assert "train_robust" in result.stdout and "digits" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "fly"], "unknown pipeline 'fly', expected one of"),
        (["run", "--recipe", "huge"], "unknown recipe 'huge', expected one of"),
        (["run", "--recipe", "none.py"], "there is no recipe file none.py"),
        (["run", "--recipe", "broken.py"], "broken.py: NameError: name 'no' is not defined"),
        (["run", "--set", "training.epoch=1"], "unknown field of stage_one 'epoch'"),
        (["run", "--set", "training.epochs=-1"], "stage_one.epochs must be at least 0, got -1"),
        (["run", "--workspace", "broken.py"], "cannot be written"),
        (["compile", "--output", "no/such/folder.yaml"], "no/such/folder.yaml"),
        (["report"], "there is no run"),
        (["ui"], "there is no workspace .bartizan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line_before_anything_runs(tmp_path, words, message):
    (tmp_path / "broken.py").write_text("RECIPE = no\n")
    result = bartizan(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob(".bartizan/runs/*"))


ADDRESS = "s3://user:planted@bucket/x"
NO_PASSWORD = "must not carry a password"


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--set", f"data.source.root={ADDRESS}"],
        ["run", "--set", ADDRESS],
        ["compile", "--set", f"data.target={ADDRESS}"],
        ["data", "prepare", "folder", ADDRESS],
        ["data", "prepare", "folder", "here", "--output", ADDRESS],
        ["data", "prepare", "folder", "--set", f"target={ADDRESS}"],
        ["data", "submission", ADDRESS, "here"],
        ["evaluate", "models:/digits@champion", "--data", ADDRESS],
        ["evaluate", ADDRESS, "--data", "here"],
        ["evaluate", "model", "--data", "here", f"--output={ADDRESS}"],
        ["doctor", "--s3", ADDRESS],
        ["submit", "--images", "images.json", "--endpoint", "https://user:planted@host"],
        ["schedule", "apply", ADDRESS],
        ["ui", "--workspace", ADDRESS],
        ["run", "--no-such-option", ADDRESS],
    ],
    ids=" ".join,
)
def test_no_command_takes_or_repeats_a_password(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert NO_PASSWORD in result.stderr and result.stderr.count("\n") == 1
    assert "planted" not in result.output and not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["https://user:planted@host", "user:planted@host:8888"])
def test_nor_from_a_file_or_the_environment(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", address)
    (tmp_path / "schedules.yaml").write_text("{}")
    (tmp_path / "images.json").write_text(json.dumps(DIGESTS))
    (tmp_path / "wrong.json").write_text(json.dumps(DIGESTS | {images.CPU: ADDRESS}))
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom pipelines.recipes import RECIPES\n"
        f"RECIPE = replace(RECIPES['tiny'], data=replace(RECIPES['tiny'].data, target={ADDRESS!r}))"
    )
    for words, message in (
        (["run", "--recipe", "mine.py"], NO_PASSWORD),
        (["compile", "--images", "wrong.json"], "must be an image by its digest"),
        (["schedule", "apply", "schedules.yaml", "--images", "images.json"], NO_PASSWORD),
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2, result.output
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert "planted" not in result.output


def test_compile_writes_the_file_a_cluster_gets(tmp_path):
    result = bartizan("compile", "--recipe", "tiny", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "train-stage-one" in (tmp_path / "train_robust.yaml").read_text()


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['bartizan', '--help']\n"
        "from pipelines.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print({'torch', 'kfp', 'mlflow', 'rich'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("set()\n")
