"""An evaluation that is killed goes on where it was and comes to the same report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate_robustness
from components.evaluation.measure import measure
from components.evaluation.report import SAMPLES, load_report
from components.evaluation.state import OtherEvaluation, State, hash_model

SCRIPT = """
import sys
from pathlib import Path
import torch
from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate_candidate
from components.evaluation.summarise import Candidate, Dataset

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.Tanh(),
                            torch.nn.Linear(16, 4)).eval()
images = torch.rand(96, 3, 4, 4)
labels = model(images).argmax(1)
settings = EvaluationConfig(
    epsilon=0.05, batch_size=8, suite=("apgd", {"name": "square", "queries": 60}), thorough=False)
evaluate_candidate(Candidate(model=model, title="killed"), Dataset(images=images, labels=labels),
                   settings, target=Path(sys.argv[1]))
"""


def run(folder: Path, kill_after: int | None = None) -> bool:
    """Evaluate in a process of its own; kill it once it has finished so many pieces of work."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment)
    while kill_after is not None and process.poll() is None:
        if len(list((folder / "state").glob("*.safetensors"))) >= kill_after:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    return process.wait() == -signal.SIGKILL


def without_times(folder: Path) -> dict:
    report = json.loads((folder / "report.json").read_text())
    del report["latency_seconds"]
    for part in (report, *report["attacks"]):
        del part["seconds"]
    return report


def test_killed_evaluations_come_to_the_same_report(tmp_path):
    assert not run(tmp_path / "whole")
    killed = 0
    for pieces in (1, 3, 5, 8):  # the same evaluation, killed again and again
        killed += run(tmp_path / "killed", kill_after=pieces)
    assert killed >= 2, "the evaluation was over before it could be killed"
    assert not run(tmp_path / "killed")
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")
    samples = [load_report(tmp_path / name)[1] for name in ("killed", "whole")]
    assert samples[0].equals(samples[1])
    assert not (tmp_path / "killed" / "state").exists()
    assert (tmp_path / "killed" / SAMPLES).exists()


def test_finished_work_is_not_done_again(lin400, tmp_path):
    settings = EvaluationConfig(epsilon=8 / 255, suite=({"name": "fgsm"},))
    asked = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = lin400.model

        def forward(self, images):
            if torch.is_grad_enabled():
                asked.append(len(images))
            return self.inner(images)

    def once():
        asked.clear()
        state = State(tmp_path / "state", {"test": 1})
        return measure(Watched(), lin400.images, lin400.labels, settings, state=state)

    first, work = once(), sum(asked)
    second = once()
    assert sum(asked) < work / 2
    assert torch.equal(first.robust, second.robust)
    assert torch.equal(first.strongest.images, second.strongest.images)
    counts = [[(o.forwards, o.gradients) for o in m.outcomes] for m in (first, second)]
    assert counts[0] == counts[1]


def test_damaged_work_is_done_again(tmp_path):
    state = State(tmp_path, {"a": 1})
    state.save("key", {"found": torch.arange(3)})
    assert torch.equal(state.load("key")["found"], torch.arange(3))
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert state.load("key") is None and state.load("other") is None


def test_work_of_another_evaluation_is_refused(lin400, tmp_path):
    State(tmp_path / "state", {"model": "a", "data": "b"}).save("piece", {"found": torch.ones(1)})
    with pytest.raises(OtherEvaluation, match="an unfinished evaluation with another model;"):
        State(tmp_path / "state", {"model": "c", "data": "b"})
    problem = lin400.model, lin400.images[:8], lin400.labels[:8]
    evaluate = {"epsilon": 0.1, "suite": ["fgsm"], "state": tmp_path / "mine"}
    evaluate_robustness(*problem, **evaluate)
    evaluate_robustness(*problem, **evaluate)
    with pytest.raises(OtherEvaluation, match="another settings;"):
        evaluate_robustness(*problem, **{**evaluate, "epsilon": 0.2})


def test_model_hash_knows_weights_and_structure(lin400):
    other = torch.nn.Sequential(*lin400.model, torch.nn.Identity())
    assert hash_model(lin400.model) == hash_model(lin400.model) != hash_model(other)
