"""Two processes that share every batch come to the weights of one; a restart goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.models.checkpoint import load_checkpoint
from components.progress import EVENTS_FILE
from components.tracking import AUTHOR, JOURNAL, URI, Run
from components.training.config import TrainingConfig
from components.training.processes import Processes
from components.training.start import TrainingFailed, start_training
from components.training.train import streams, train

# Steps along signs would flip for a rounding error, and grow from there; these do not.
ATTACK = {"name": "pgd", "norm": "l2", "epsilon": 1.0, "steps": 1, "keep": "last"}
SETTINGS = TrainingConfig(
    backbone={"name": "lenet5"},
    objective={"name": "adversarial", "attack": ATTACK},
    selection={"name": "pgd", "epsilon": 0.05, "steps": 2},
    optimizer={"name": "sgd"},
    average_decay=0.9,
    batch_size=101,  # which two cannot share evenly
    epochs=2,
    collapse_epsilon=0.05,  # of which all must come to the same opinion
)


def start(data, folder, run=None, **changes):
    return start_training(
        replace(SETTINGS, processes=2, **changes),
        data=data,
        target=folder / "model",
        initial=None,
        state=folder / "state",
        run=run or Run("train"),
    )


@pytest.fixture
def deadline():
    """One that waits for another would do so for ever."""
    timer = threading.Timer(300, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.cancel()


@pytest.mark.usefixtures("deadline")
def test_two_processes_and_one(digits_shards, tmp_path, monkeypatch):
    monkeypatch.setenv(EVENTS_FILE, str(tmp_path / "events"))
    journal = tmp_path / "journal"
    environment = {URI: "nobody sends it", JOURNAL: str(journal), AUTHOR: "attempt"}
    theirs = start(digits_shards, tmp_path / "two", Run("train", None, environment))
    kept = train(SETTINGS, data=digits_shards, target=tmp_path / "one")
    one, two = load_checkpoint(tmp_path / "one"), load_checkpoint(tmp_path / "two" / "model")
    for name, weight in one.state_dict().items():
        assert torch.allclose(weight, two.state_dict()[name], atol=1e-5), name
    assert theirs["epoch"] == kept["epoch"]
    assert theirs["validation_robust_accuracy"] == pytest.approx(
        kept["validation_robust_accuracy"], abs=1.5 / 130
    )
    notes = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {(note["step"], note["author"]) for note in notes} == {("train", "attempt")}
    curves = [note["note"] for note in notes if note["note"]["kind"] == "metrics"]
    assert [curve["step"] for curve in curves] == [1, 2]
    assert curves[-1]["values"]["loss"] > 0
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    shown = [event for event in events if event["step"] != "untracked"]  # that is the lone one
    assert {event["step"] for event in shown} == {"train"}
    assert [event["done"] for event in shown].count(0) == 2  # begun, and nothing taken up


NORMALISED = {
    "backbone": {"name": "resnet18", "widths": [4, 4, 8, 8]},
    "selection": None,
    "collapse_epsilon": 0.0,
    "epochs": 1,
}
DECODER = {"name": "feature_pyramid_decoder", "width": 4, "trunk": "own_norms", "image_size": 8}


@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize(
    "changes",
    [
        # Of 1,167 images the last batch has one, which all processes take.
        {"objective": {"name": "cross_entropy"}, "batch_size": 106},
        # No gate opens: what is behind it must not be moved, not even by weight decay.
        {
            "defences": (DECODER,),
            "objective": {"name": "restoration", "second": "recomputed", "threshold": 1e-6},
            "batch_size": 600,
        },
    ],
    ids=["one_image_left", "closed_gate"],
)
def test_two_processes_are_one_batch(changes, digits_shards, tmp_path):
    settings = replace(SETTINGS, **NORMALISED | changes)
    start(digits_shards, tmp_path, **NORMALISED | changes)
    train(settings, data=digits_shards, target=tmp_path / "one")
    one, two = load_checkpoint(tmp_path / "one"), load_checkpoint(tmp_path / "model")
    for name, weight in one.state_dict().items():
        assert torch.allclose(weight, two.state_dict()[name], rtol=1e-3, atol=1e-3), name


@pytest.mark.usefixtures("deadline")
def test_an_error_in_one_process_ends_all_and_is_said(digits_shards, tmp_path):
    wild = {"learning_rate": 1e12, "schedule": {"name": "constant"}, "average_decay": 0.0}
    wild |= {"objective": {"name": "cross_entropy"}, "collapse_epsilon": 0.0}
    # An attack would complain before the loss does.
    with pytest.raises(TrainingFailed, match="FloatingPointError: the loss became"):
        start(digits_shards, tmp_path, **wild)


STEP = """
import sys
from pathlib import Path
from components.tracking import Run
from components.training.config import TrainingConfig
from components.training.start import start_training
settings, data, folder = TrainingConfig.from_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
target, state = folder / "model", folder / "state"
start_training(settings, data=data, target=target, initial=None, state=state, run=Run("train"))
"""


def command(settings, data, folder):
    return list(map(str, [sys.executable, "-c", STEP, settings.to_json(), data, folder]))


@contextmanager
def killed(words, folder, awaited):
    """Start a step, and kill it once there is a file of its state; all that it started ends."""
    step = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while not (folder / "state" / awaited).exists():
        assert step.poll() is None
        time.sleep(0.05)
    yield
    step.kill()
    step.wait()
    while named(folder):
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.usefixtures("deadline")
def test_a_killed_step_leaves_no_process_behind(digits_shards, tmp_path):
    endless = replace(SETTINGS, processes=2, epochs=10_000, state_seconds=0.0)
    folder = tmp_path / "a folder of this test alone"
    with killed(command(endless, digits_shards, folder), folder, "newest.state"):
        assert len(named(folder)) == 4  # step, torchrun and two at work


@pytest.mark.usefixtures("deadline")
def test_killed_together_they_come_to_the_same_weights(digits_shards, tmp_path):
    """Bit by bit, though each draws for another number of images and carries its own attack."""
    changes = NORMALISED | {
        "objective": {"name": "free", "epsilon": 0.1, "replays": 2},
        "augmentations": ({"name": "rotate", "degrees": 10.0, "probability": 0.5},),
        "backbone": {"name": "wide_resnet", "depth": 10, "widen_factor": 1, "dropout": 0.2},
    }
    start(digits_shards, tmp_path / "whole", **changes)
    settings = replace(SETTINGS, processes=2, state_seconds=0.0, **changes)
    folder = tmp_path / "killed"
    words = command(settings, digits_shards, folder)
    with killed(words, folder, "previous.state"):
        pass
    assert not (folder / "model").exists()
    subprocess.run(words, check=True)
    one, two = (load_checkpoint(tmp_path / name / "model") for name in ("whole", "killed"))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name]), name


def named(folder):
    """The processes on whose command line a folder is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [path] if str(folder) in path.read_text() else []
    return found


def test_a_batch_must_be_enough_for_all(digits_shards):
    with pytest.raises(ValueError, match="at least the number of processes, 4, got 3"):
        streams(replace(SETTINGS, batch_size=3), digits_shards, Processes(0, 4))


def test_alone_there_is_nothing_to_exchange():
    values, alone = {"a": 1.5, "b": 2.0}, Processes()
    assert json.dumps(alone.add_up(values, torch.device("cpu"))) == json.dumps(values)
    assert alone.gather("mine") == ["mine"] and alone.agree(True) and not alone.agree(False)
