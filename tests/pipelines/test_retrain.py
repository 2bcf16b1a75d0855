"""A champion is trained again when there is something new, and attacked again when asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from components.evaluation.report import REPORT, load_report
from components.models.checkpoint import WORDS
from components.registry.verdict import VERDICT, load_verdict
from pipelines.compile import compile_pipeline
from pipelines.graph import read_steps
from pipelines.recipes import RECIPES
from pipelines.recipes.retrain import RETRAIN_TINY
from pipelines.workspace import Workspace

BARTIZAN = Path(sys.executable).with_name("bartizan")
SOURCE = json.dumps({"name": "folder", "root": "images", "grey": True})


def bartizan(*words, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    command = [BARTIZAN, "run", *words, "--set", f"data.source={SOURCE}"]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout, Workspace(cwd / ".bartizan").find_run()


def retrain(cwd):
    return bartizan("retrain", "--recipe", "retrain_tiny", cwd=cwd)


def steps(folder):
    events = [json.loads(line) for line in folder.events.read_text().splitlines()]
    return [event["step"] for event in events if event["event"] == "end"]


def write(images, name, pixels, label):
    path = images / name / str(label) / f"{len(list(images.rglob('*.png'))):04}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15.9375).astype("uint8")).save(path)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Retrain on a folder of images, again as it is, and again with one image more."""
    cwd = tmp_path_factory.mktemp("story")
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if number:
            write(cwd / "images", "train" if number < 1297 else "test", pixels, label)
    told = [retrain(cwd), retrain(cwd)]
    write(cwd / "images", "train", digits.images[0], digits.target[0])
    return cwd, [*told, retrain(cwd)]


@pytest.mark.slow
def test_the_first_model_is_trained_from_fresh_weights(story):
    output, folder = story[1][0]
    assert "trained: tiny has no champion yet" in output
    assert "the challenger becomes the champion" in output
    assert steps(folder)[2:] == ["train", "evaluate-attacks", "compare-models", "promote-model"]


@pytest.mark.slow
def test_nothing_new_is_said_in_one_line(story):
    output, folder = story[1][1]
    assert "nothing to do: the champion, version 1 of tiny, has already learnt" in output
    assert steps(folder) == ["prepare-data", "check-champion"]


@pytest.mark.slow
def test_one_image_more_is_learnt_onwards_and_decided_on(story):
    cwd, (*_, (output, folder)) = story
    assert "trained: since version 1, the champion, the data changed from" in output
    assert "models:/tiny/1" in output and "Verdict" in output
    assert set(steps(folder)) >= {"fetch-champion", "evaluate-champion", "promote-model"}
    reports = {r.title: r for r, _ in map(load_report, folder.folders_with(REPORT))}
    (verdict,) = map(load_verdict, folder.folders_with(VERDICT))
    # Compared on the new images, and so by the test, whatever came of it.
    assert verdict.champion_version == "1" and verdict.p_value is not None
    old, new = reports["models:/tiny/1"], reports["train"]
    assert old.data["fingerprint"] == new.data["fingerprint"]
    assert verdict.gain == pytest.approx(new.robust_accuracy.value - old.robust_accuracy.value)

    client = mlflow.MlflowClient(Workspace(cwd / ".bartizan").tracking_uri)
    versions = {str(v.version): v for v in client.search_model_versions("name = 'tiny'")}
    assert versions.keys() == {"1", "2"}
    assert versions["2"].tags["data"] == new.data["fingerprint"] != versions["1"].tags["data"]
    words = [json.loads((path / WORDS).read_text()) for path in folder.folders_with(WORDS)]
    initial = [w["provenance"]["initial"] for w in words if "initial" in w["provenance"]]
    assert initial == [versions["1"].tags["checkpoint"]]


@pytest.mark.slow
def test_a_registered_model_is_attacked_again(story):
    settings = ("fetch.model=models:/tiny/1", 'evaluation.suite=["fgsm"]')
    words = [word for setting in settings for word in ("--set", setting)]
    output, folder = bartizan("evaluate_model", "--recipe", "evaluate_digits", *words, cwd=story[0])
    assert "models:/tiny/1" in output
    (path,) = folder.folders_with(REPORT)
    assert load_report(path)[0].title == "models:/tiny/1"


def test_the_pipeline_trains_onwards_without_a_backbone_of_its_own():
    arguments = RETRAIN_TINY.arguments()
    assert json.loads(arguments["champion"]) == {"model": "models:/tiny@champion"}
    fresh, onwards = (json.loads(arguments[name]) for name in ("training", "onwards"))
    assert onwards == {**fresh, "backbone": None} and fresh["backbone"]
    assert RECIPES["evaluate_digits"].pipeline == "evaluate_model"


def test_steps_that_branches_share_are_named_once(tmp_path):
    compile_pipeline("retrain", RETRAIN_TINY, tmp_path / "pipeline.yaml")
    steps = read_steps(tmp_path / "pipeline.yaml")
    assert steps[:2] == ("prepare-data", "check-champion")
    assert sorted(steps[2:]) == [
        "compare-models",
        "evaluate-attacks",
        "evaluate-champion",
        "fetch-champion",
        "promote-model",
        "train",
    ]
