"""The registry in a real store: versions, aliases, evidence; serving where we are not installed."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch

from components import tracking
from components.evaluation.report import load_report
from components.models.checkpoint import hash_checkpoint, load_checkpoint
from components.registry.champions import StaleVerdict, find_champion
from components.registry.component import compare_models, promote_model
from components.registry.config import PromotionConfig
from components.registry.models import fetch_checkpoint, fetch_report, judge
from components.registry.promote import promote
from components.registry.verdict import load_verdict, save_verdict

# An example would make MLflow load the model, which a step need not pay for.
pytestmark = pytest.mark.filterwarnings("ignore:.*An input example was not provided")

SETTINGS = PromotionConfig(model_name="digits")


def promote_in_run(challenger):
    with tracking.step_run("promote-model", "promotion", SETTINGS):
        return promote(SETTINGS, **vars(challenger))


def challenge(challenger):
    save_verdict(judge(SETTINGS, challenger.report), challenger.verdict)
    return promote_in_run(challenger)


def aliases(store):
    found = store.get_registered_model("digits").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_champion_and_challenger(store, make_challenger, tmp_path):
    assert find_champion("digits") is None
    first = challenge(make_challenger("first", 0.5))
    assert find_champion("digits") == first == "1"

    weaker = challenge(make_challenger("weaker", 0.4, seed=1))
    assert aliases(store) == {"champion": "1", "challenger": weaker}

    better = make_challenger("better", 0.6, seed=2)
    version = challenge(better)
    assert find_champion("digits") == version == "3"
    tags = store.get_model_version("digits", version).tags
    assert tags["trust"] == "trusted"
    assert tags["robust_accuracy"] == "0.6000"
    assert tags["epsilon"] == "0.1"
    assert tags["checkpoint"] == hash_checkpoint(better.checkpoint)
    assert tags["verdict"].startswith("promoted: ")
    assert "not promoted" in store.get_model_version("digits", weaker).tags["verdict"]

    report = fetch_report("models:/digits@champion", tmp_path / "fetched")
    assert load_report(report) == load_report(better.report)
    assert (report / "report.html").exists()
    checkpoint = fetch_checkpoint("models:/digits/3", tmp_path / "fetched")
    assert hash_checkpoint(checkpoint) == hash_checkpoint(better.checkpoint)


def test_a_champion_that_changed_is_not_replaced(store, make_challenger):
    late = make_challenger("late", 0.9, seed=1)
    save_verdict(judge(SETTINGS, late.report), late.verdict)
    challenge(make_challenger("early", 0.5))
    with pytest.raises(StaleVerdict, match=r"compared with champion none.* is 1; compare again"):
        promote_in_run(late)
    assert aliases(store) == {"champion": "1", "challenger": "2"}


@pytest.mark.usefixtures("store")
def test_model_report_and_verdict_must_belong_together(make_challenger):
    one, other = make_challenger("one"), make_challenger("other", seed=1)
    save_verdict(judge(SETTINGS, one.report), one.verdict)
    one.checkpoint = other.checkpoint
    with pytest.raises(ValueError, match="must be about one model"):
        promote_in_run(one)
    assert find_champion("digits") is None


@pytest.mark.usefixtures("store")
def test_a_model_is_registered_inside_a_run(make_challenger):
    one = make_challenger("one")
    save_verdict(judge(SETTINGS, one.report), one.verdict)
    with pytest.raises(ValueError, match="inside a step's run"):
        promote(SETTINGS, **vars(one))


def test_without_a_store_there_is_no_registry(monkeypatch, make_challenger):
    monkeypatch.delenv(tracking.URI, raising=False)
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI must be set"):
        judge(SETTINGS, make_challenger("one").report)


def test_doors(store, make_challenger, tmp_path):
    """Both doors as the platform calls them, each a run of its own with its evidence."""
    challenger = make_challenger("one", 0.7)
    report = SimpleNamespace(path=str(challenger.report))
    verdict = SimpleNamespace(path=str(tmp_path / "verdict"), metadata={})
    config = SETTINGS.to_json()
    compare_models.python_func(step="compare", config=config, report=report, verdict=verdict)
    assert verdict.metadata == {"promoted": True}
    assert load_verdict(tmp_path / "verdict").promoted
    version = promote_model.python_func(
        step="promote",
        config=config,
        model=SimpleNamespace(path=str(challenger.checkpoint)),
        report=report,
        verdict=verdict,
    )
    assert find_champion("digits") == version == "1"
    experiment = store.get_experiment_by_name("bartizan").experiment_id
    runs = {run.info.run_name: run for run in store.search_runs([experiment])}
    assert runs["compare"].data.params["promotion.model_name"] == "digits"
    assert [a.path for a in store.list_artifacts(runs["compare"].info.run_id, "verdict")]
    assert runs["promote"].info.status == "FINISHED"
    assert runs["promote"].data.metrics["robust_accuracy"] == 0.7
    assert store.get_model_version("digits", version).run_id == runs["promote"].info.run_id


SERVE = """
import importlib.util, json, sys, warnings
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("components") is None
warnings.simplefilter("ignore")
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/digits@champion")
images = numpy.load(sys.argv[2])
print(json.dumps(model.predict(images).tolist()))
print(sys.modules["components"].__file__)
"""


def test_a_version_predicts_where_we_are_not_installed(store, make_challenger, tmp_path):
    """In an empty folder, with only other people's packages, from nothing but the store."""
    challenger = make_challenger("one")
    challenge(challenger)
    images = np.random.default_rng(0).random((5, 1, 28, 28), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "empty").mkdir()
    packages = sysconfig.get_path("purelib")
    ran = subprocess.run(
        # Without site, the link to this project in the environment is not followed.
        [sys.executable, "-B", "-S", "-P", "-c", SERVE, packages, str(tmp_path / "images.npy")],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    logits, origin = ran.stdout.splitlines()
    with torch.no_grad():
        expected = load_checkpoint(challenger.checkpoint)(torch.from_numpy(images))
    assert torch.tensor(json.loads(logits)).equal(expected)
    assert Path(origin).is_relative_to(tmp_path)
    assert not list((tmp_path / "empty").iterdir())

    stored = mlflow.artifacts.download_artifacts(
        "models:/digits/1", dst_path=str(tmp_path / "stored")
    )
    files = [path for path in Path(stored).rglob("*") if path.is_file()]
    assert not [f for f in files if f.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".pyc"}]
    assert not [f for f in files if f.name == "uv.lock"]
    assert store.get_model_version("digits", "1").status == "READY"
