"""bartizan evaluate as a user meets it: any model, any images, one line for what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.__main__ import app

BARTIZAN = Path(sys.executable).with_name("bartizan")
MODEL = """
import torch
from torch import nn
from helper import NUM_CLASSES

def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, NUM_CLASSES))

def nothing():
    return "no model"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model in a file beside a module of its own, and a folder of images per class."""
    root = tmp_path_factory.mktemp("place")
    (root / "code").mkdir()
    (root / "code" / "mine.py").write_text(MODEL)
    (root / "code" / "helper.py").write_text("NUM_CLASSES = 4\n")
    generator = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        (root / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{number}.png")
    return root


def evaluate(place, *words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [BARTIZAN, "evaluate", *words],
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )


def test_any_module_on_any_images(place):
    result = evaluate(
        place, "code/mine.py:linear", "--data", "images", "--epsilon", "1/255", "--suite", "fast",
        "--output", "found",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((place / "found" / "report.json").read_text())
    assert report["data"]["classes"] == ["ant", "bee", "cat"]
    assert report["clean_accuracy"]["num_images"] == 18
    assert report["epsilon"] == 1 / 255
    assert [attack["name"] for attack in report["attacks"]] == ["apgd", "apgd_targeted"]
    assert report["trust"] in result.stdout and "found/report.html" in result.stdout
    assert (place / "found" / "report.html").is_file()


def test_the_published_columns_in_one_word(place):
    result = evaluate(
        place, "code/mine.py:linear", "--data", "images", "--suite", "paper", "--num-images", "4",
        "--set", "seed=3",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (path,) = place.glob(".bartizan/evaluations/*/report.json")
    report = json.loads(path.read_text())
    assert len(report["attacks"]) == 5 and report["settings"]["seed"] == 3
    assert {attack["attacked"] for attack in report["attacks"]} == {
        round(4 * report["clean_accuracy"]["value"])
    }


WRONG = {
    "model": (["what"], "a model is a checkpoint folder, models:/name@alias or file.py:function"),
    "file": (["none.py:f"], "there is no file none.py"),
    "function": (["code/mine.py:f"], "it has no function f"),
    "no module": (["code/mine.py:nothing"], "must return a torch.nn.Module, got str"),
    "registry": (["models:/none@champion"], "models:/none@champion cannot be fetched"),
    "data": (["code/mine.py:linear", "--data", "nowhere"], "there is no folder nowhere"),
    "layout": (["code/mine.py:linear", "--data", "code"], "must hold one folder per class"),
    "epsilon": (["code/mine.py:linear", "--epsilon", "8"], "epsilon must be at most 1 for linf"),
    "suite": (["code/mine.py:linear", "--suite", "fastest"], "unknown name 'fastest'"),
    "field": (["code/mine.py:linear", "--set", "steps=3"], "unknown field of evaluation 'steps'"),
    "size": (["code/mine.py:linear", "--image-size", "9"], "shape"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(place, words, message, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = [] if "--data" in words else ["--data", "images"]
    result = CliRunner().invoke(app, ["evaluate", *words, *data])
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
