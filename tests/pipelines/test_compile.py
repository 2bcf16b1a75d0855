"""Every pipeline with every recipe compiles, without torch and mlflow, to a file kfp accepts."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import pipelines
from components import images
from pipelines import PIPELINES
from pipelines.compile import compile_pipeline
from pipelines.graph import read_arguments, read_steps
from pipelines.picture import draw_pipeline
from pipelines.recipes import RECIPES

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["mlflow"] = None
from pathlib import Path
from pipelines.compile import compile_pipeline
from pipelines.recipes import RECIPES
compile_pipeline(sys.argv[1], RECIPES[sys.argv[2]], Path(sys.argv[3]))
"""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_compiles(name, tmp_path):
    recipe = RECIPES[name]
    compile_pipeline(recipe.pipeline, recipe, tmp_path / "pipeline.yaml")
    assert read_arguments(tmp_path / "pipeline.yaml") == recipe.arguments()
    assert recipe.pipeline in PIPELINES


@pytest.mark.parametrize("recipe", ["tiny", "gcm_small", "part_small"])
def test_compiles_where_torch_cannot_be_imported(recipe, tmp_path):
    target = tmp_path / "pipeline.yaml"
    words = [RECIPES[recipe].pipeline, recipe, target]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], check=True)
    spec = next(yaml.safe_load_all(target.read_text()))
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    defaults = {name: parameter["defaultValue"] for name, parameter in parameters.items()}
    assert defaults == RECIPES[recipe].arguments()


@pytest.fixture
def spec(tmp_path):
    compile_pipeline("train_robust", RECIPES["tiny"], tmp_path / "pipeline.yaml")
    return next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))


def test_steps_carry_the_names_of_the_run_graph(tmp_path):
    compile_pipeline("train_robust", RECIPES["tiny"], tmp_path / "pipeline.yaml")
    steps = read_steps(tmp_path / "pipeline.yaml")
    expected = [
        "prepare-data",
        "train-stage-one",
        "fine-tune-stage-two",
        "adversarial-training",
        "prune",
        "evaluate-attacks",
        "compare-models",
        "promote-model",
    ]
    assert [step for step in steps if step in expected] == expected


def test_steps_of_a_loop_are_named_once_for_each_item(tmp_path):
    study = RECIPES["part_small"]
    study = replace(study, arms={"plain": study.arms["adversarial"]})
    compile_pipeline(study.pipeline, study, tmp_path / "pipeline.yaml")
    trained = [f"{word}-plain-{seed}" for seed in (0, 1, 2) for word in ("train", "evaluate")]
    assert read_steps(tmp_path / "pipeline.yaml") == ("prepare-data", *trained, "tabulate")


def test_recipe_of_another_pipeline(tmp_path):
    with pytest.raises(ValueError, match="fine_tune needs a recipe of its own, this one is for tr"):
        compile_pipeline("fine_tune", RECIPES["tiny"], tmp_path / "pipeline.yaml")


def test_every_step_knows_its_own_name(spec):
    for task in spec["root"]["dag"]["tasks"].values():
        step = task["inputs"]["parameters"]["step"]["runtimeValue"]["constant"]
        assert step == task["taskInfo"]["name"]


def test_images_are_symbolic_and_nothing_is_installed_at_start(spec):
    for executor in spec["deploymentSpec"]["executors"].values():
        assert executor["container"]["image"] in (images.CPU, images.GPU)
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_what_speaks_with_the_registry_is_not_cached(spec):
    tasks = spec["root"]["dag"]["tasks"].values()
    cached = {t["taskInfo"]["name"]: "enableCache" in t["cachingOptions"] for t in tasks}
    assert not cached["compare-models"] and not cached["promote-model"]
    assert cached["prepare-data"] and cached["train-stage-one"]


def test_picture_in_the_readme_is_of_the_pipeline_as_it_is(spec):
    picture = Path(pipelines.__file__).with_name("train_robust.svg")
    assert picture.read_text(encoding="utf-8") == draw_pipeline(spec), (
        "draw it again: bartizan compile -o /tmp/p.yaml --picture pipelines/train_robust.svg"
    )


def test_unknown_pipeline(tmp_path):
    with pytest.raises(ValueError, match="unknown pipeline 'fly', expected one of"):
        compile_pipeline("fly", RECIPES["tiny"], tmp_path / "pipeline.yaml")
