"""A pruning that is killed goes on to the same weights, whatever the method and the moment."""

import dataclasses

import pytest

from components.models.checkpoint import hash_checkpoint, save_checkpoint
from components.progress import Progress
from components.pruning.config import PruningConfig
from components.pruning.prune import GATES, prune
from components.tracking import Run
from components.training.state import OtherTraining

SETTINGS = PruningConfig(
    attack={"name": "fgsm", "epsilon": 0.1},
    augmentations=({"name": "crop_and_flip", "padding": 2},),
    epochs=2,
    initial_keep_probability=0.5,
    gate_learning_rate=0.5,
    batch_size=32,
    state_seconds=0.0,  # after every batch
)
METHODS = {
    "gates": {"name": "gates"},
    "weights": {"name": "admm", "renewals": 2},
    "units": {"name": "admm", "structure": "units", "sparsity": 0.5},
}
BATCHES = 4  # of each epoch: 120 images for training


class Killed(Exception):
    """Stands for the end of the process."""


class Mortal(Run):
    """A tracking run in which the step dies after so many batches."""

    def __init__(self, batches):
        super().__init__("prune")
        self._left = batches

    def progress(self, total, unit):
        run = self

        class Watched(Progress):
            def advance(self, count=1, note=""):
                super().advance(count, note)
                run._left -= count
                if run._left < 0:
                    raise Killed

        return Watched(self.name, total, unit)


@pytest.fixture
def initial(make_model, tmp_path):
    save_checkpoint(make_model(), tmp_path / "initial", provenance={})
    return tmp_path / "initial"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_killed_again_and_again_to_the_same_weights(method, initial, shards, tmp_path):
    settings = dataclasses.replace(SETTINGS, method=method)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    prune(settings, data=shards, initial=initial, target=whole)
    # The first dies in its second batch, others at an epoch's end, behind it and before the end.
    for batches in (1, BATCHES - 1, BATCHES, 2 * BATCHES - 1):
        with pytest.raises(Killed):
            prune(
                settings,
                data=shards,
                initial=initial,
                target=killed,
                state=killed / "state",
                run=Mortal(batches),
            )
        assert not (killed / "model.json").exists()
    prune(settings, data=shards, initial=initial, target=killed, state=killed / "state")
    assert hash_checkpoint(killed) == hash_checkpoint(whole)
    assert (killed / GATES).read_bytes() == (whole / GATES).read_bytes()
    assert not (killed / "state").exists()


def test_the_state_of_another_pruning_is_refused(initial, shards, tmp_path):
    folders = {"data": shards, "initial": initial, "state": tmp_path / "state"}
    with pytest.raises(Killed):
        prune(SETTINGS, target=tmp_path / "pruned", run=Mortal(1), **folders)
    other = dataclasses.replace(SETTINGS, kl_weight=1.0)
    with pytest.raises(OtherTraining, match="other settings, data or initial model"):
        prune(other, target=tmp_path / "pruned", **folders)
