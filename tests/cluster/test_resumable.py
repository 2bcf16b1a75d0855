"""Doors of long steps keep their state on the volume that a pod in their place sees too."""

import shutil
from types import SimpleNamespace

import pytest

from components import cluster, tracking
from components.evaluation.component import evaluate_robustness
from components.evaluation.config import EvaluationConfig
from components.evaluation.state import OtherEvaluation, State
from components.pruning.component import prune_model
from components.pruning.config import PruningConfig
from components.training.component import train_model
from components.training.config import TrainingConfig
from components.training.state import OtherTraining, TrainingState

ATTACK = {"name": "fgsm", "epsilon": 0.1}
TRAINING = TrainingConfig(backbone="lenet5", objective="cross_entropy", epochs=1, selection=None)
PRUNING = PruningConfig(attack=ATTACK, epochs=1)
EVALUATION = EvaluationConfig(epsilon=0.1, suite=("fgsm",), num_images=8)


class Artifact(SimpleNamespace):
    """What the platform hands to a door."""

    def __init__(self, path):
        super().__init__(path=str(path), metadata={})

    def log_metric(self, name, value):
        self.metadata[name] = value


@pytest.fixture
def volume(tmp_path, monkeypatch):
    monkeypatch.delenv(tracking.URI, raising=False)
    monkeypatch.setenv(cluster.STATE, str(tmp_path / "state"))
    monkeypatch.setenv(tracking.PIPELINE_RUN, "a-run")
    return tmp_path / "state" / "a-run"


def test_state_is_looked_for_on_the_volume_and_removed_at_the_end(volume, digits_shards, tmp_path):
    """That it is looked for there shows where somebody else's lies: it is refused."""
    data, metrics = Artifact(digits_shards), Artifact("")
    model, pruned, report = (Artifact(tmp_path / name) for name in ("model", "pruned", "report"))

    def run(door, settings, **artifacts):
        state, name = volume / door.name, door.name
        if door is evaluate_robustness:
            State(state, {"whose": "another"}).save("work", {})
        else:
            TrainingState(state, {"whose": "another"}).save({})
        words = {"step": name, "config": settings.to_json(), "data": data, "metrics": metrics}
        with pytest.raises((OtherTraining, OtherEvaluation), match=str(state)):
            door.python_func(**words, **artifacts)
        shutil.rmtree(state)
        door.python_func(**words, **artifacts)
        assert not state.exists()

    run(train_model, TRAINING, model=model)
    run(prune_model, PRUNING, model=model, pruned=pruned)
    run(evaluate_robustness, EVALUATION, model=pruned, report=report)
    assert not list(tmp_path.rglob("*.state")) and report.metadata["trust"]
