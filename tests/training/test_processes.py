"""Two processes that share every batch come to the weights of one; a restart goes on."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from components.models.checkpoint import load_checkpoint, read_provenance
from components.training.config import TrainingConfig
from components.training.processes import Processes
from components.training.train import streams, train

# Trained without an attack: a step of its sign flips for a rounding error, and grows from there.
SETTINGS = TrainingConfig(
    backbone={"name": "lenet5"},
    objective={"name": "cross_entropy"},
    selection={"name": "pgd", "epsilon": 0.05, "steps": 2},
    optimizer={"name": "sgd"},
    average_decay=0.9,
    batch_size=101,  # which two cannot share evenly
    epochs=2,
    collapse_epsilon=0.05,  # of which all must come to the same opinion
)


def together(settings, data, folder, processes=2):
    folder.mkdir()
    (folder / "config.json").write_text(settings.to_json())
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = ["-m", "components.training", folder / "config.json", data, folder / "model"]
    return subprocess.run(
        [sys.executable, *command, *map(str, words), "--state", str(folder / "state")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # one that waits for another would do so for ever
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_and_one(digits_shards, tmp_path):
    ended = together(SETTINGS, digits_shards, tmp_path / "two")
    assert ended.returncode == 0, ended.stderr
    kept = train(SETTINGS, data=digits_shards, target=tmp_path / "one")
    one, two = load_checkpoint(tmp_path / "one"), load_checkpoint(tmp_path / "two" / "model")
    for name, weight in one.state_dict().items():
        assert torch.allclose(weight, two.state_dict()[name], atol=1e-5), name
    theirs = read_provenance(tmp_path / "two" / "model")["kept"]
    assert theirs["epoch"] == kept["epoch"]
    assert theirs["validation_robust_accuracy"] == pytest.approx(
        kept["validation_robust_accuracy"], abs=1.5 / 130
    )


def test_an_error_in_one_process_ends_all(digits_shards, tmp_path):
    wild = replace(SETTINGS, learning_rate=1e12, schedule={"name": "constant"}, average_decay=0.0)
    ended = together(wild, digits_shards, tmp_path / "wild")
    assert ended.returncode != 0
    assert "Error" in ended.stderr


def test_a_batch_must_be_enough_for_all(digits_shards):
    with pytest.raises(ValueError, match="at least the number of processes, 4, got 3"):
        streams(replace(SETTINGS, batch_size=3), digits_shards, Processes(0, 4))


def test_alone_there_is_nothing_to_exchange():
    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad.clone()
    Processes().average_gradients(model, 1.0)
    assert torch.equal(model.weight.grad, before)
    values = {"a": 1.5, "b": 2.0}
    assert json.dumps(Processes().add_up(values, torch.device("cpu"))) == json.dumps(values)
