"""As many processes as were asked for, or an error."""

from dataclasses import replace

import pytest
import torch

from components.tracking import Run
from components.training.config import TrainingConfig
from components.training.launch import NODES, Nodes
from components.training.processes import joined
from components.training.start import start_training
from components.training.train import check_processes, train

SETTINGS = TrainingConfig(backbone="lenet5", objective="cross_entropy", epochs=0)
NODES_OF_TWO = Nodes(
    count=2, image="image", cpu="1", memory="1Gi", accelerator="nvidia.com/gpu", accelerators=8
)


@pytest.mark.parametrize("asked", [0, 4])
def test_what_was_started_is_what_was_asked_for(asked):
    check_processes(replace(SETTINGS, processes=asked), 4)


def test_a_number_that_somebody_else_has_decided(digits_shards, tmp_path):
    settings = replace(SETTINGS, processes=3)
    with pytest.raises(ValueError, match="started here, 1, got 3"):
        train(settings, data=digits_shards, target=tmp_path)


@pytest.mark.parametrize(("asked", "words"), [(8, "16, got 8"), (16, "needs a volume")])
def test_nodes_decide_how_many_there_are(asked, words, tmp_path, monkeypatch):
    monkeypatch.setenv(NODES, NODES_OF_TWO.to_json())
    monkeypatch.delenv("BARTIZAN_STATE", raising=False)
    settings = replace(SETTINGS, processes=asked)
    places = {"data": tmp_path, "target": tmp_path, "initial": None, "state": tmp_path}
    with pytest.raises(ValueError, match=words):
        start_training(settings, **places, run=Run("train"))


def test_more_processes_than_accelerators(monkeypatch):
    """Torchrun's variables and a machine with two accelerators; nothing is started."""
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="at most the number of accelerators, 2, got 4"), joined():
        pass
