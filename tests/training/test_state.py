"""A training that is killed goes on to the same weights; a torn or full disk loses nothing."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from components.models.checkpoint import hash_checkpoint
from components.training.config import TrainingConfig
from components.training.state import OtherTraining, TrainingState
from components.training.train import train

SETTINGS = TrainingConfig(
    backbone={"name": "lenet5"},
    objective={"name": "adversarial", "attack": {"name": "fgsm", "epsilon": 0.1}},
    augmentations=({"name": "crop_and_flip", "padding": 2},),
    optimizer={"name": "sgd"},
    average_decay=0.99,
    batch_size=96,
    epochs=2,
    state_seconds=0.0,  # after every batch
)
KILLS = 10
# Imports once; then trains in a new process for every folder it is told.
SERVER = """
import os, sys
from pathlib import Path
import torch._dynamo  # which a first step of any optimizer loads, for seconds
from components.training.config import TrainingConfig
from components.training.train import train
torch.set_num_threads(1)
data, settings = Path(sys.argv[1]), TrainingConfig.from_json(sys.argv[2])
for line in sys.stdin:
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        folder = Path(line.strip())
        train(settings, data=data, target=folder / "model", state=folder / "state")
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killed_ten_times_to_the_same_weights(digits_shards, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, digits_shards, SETTINGS.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    draw, newest = random.Random(0), killed / "state" / "newest.state"
    with server:
        for _ in range(KILLS):
            before = written(newest)
            child = begin(server, killed)
            while written(newest) in (0, before):
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert int(server.stdout.readline()) == -signal.SIGKILL
        for folder in (killed, whole):
            begin(server, folder)
            assert int(server.stdout.readline()) == 0
        server.stdin.close()
    assert hash_checkpoint(killed / "model") == hash_checkpoint(whole / "model")
    assert not (killed / "state").exists()


def written(path):
    """When a state was put there; 0 while one makes way for the next."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0


def begin(server, folder):
    server.stdin.write(f"{folder}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


class Killed(Exception):
    """Stands for the end of the process."""


class Ending:
    """A tracking run in which training ends at some step of progress."""

    name = "train"

    def __init__(self, after):
        self.left = after

    def metrics(self, values, step=None):
        pass

    def progress(self, total, unit):
        from components.progress import Progress

        ending = self

        class Watched(Progress):
            def advance(self, amount=1, note=""):
                ending.left -= amount
                if ending.left < 0:
                    raise Killed
                super().advance(amount, note)

        return Watched(self.name, total, unit)


def interrupted(settings, data, folder, after=17):
    with pytest.raises(Killed):
        train(
            settings, data=data, target=folder / "model", state=folder / "state", run=Ending(after)
        )


@pytest.mark.parametrize("damage", ["torn", "flipped", "gone"])
def test_a_damaged_state_gives_way_to_the_one_before(damage, digits_shards, tmp_path):
    train(SETTINGS, data=digits_shards, target=tmp_path / "whole")
    interrupted(SETTINGS, digits_shards, tmp_path)
    newest = tmp_path / "state" / "newest.state"
    content = newest.read_bytes()
    if damage == "torn":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        newest.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    else:
        newest.unlink()
    train(SETTINGS, data=digits_shards, target=tmp_path / "model", state=tmp_path / "state")
    assert hash_checkpoint(tmp_path / "model") == hash_checkpoint(tmp_path / "whole")


def test_another_training_is_refused(digits_shards, tmp_path):
    interrupted(SETTINGS, digits_shards, tmp_path)
    with pytest.raises(OtherTraining, match="other settings, data or initial model"):
        train(
            replace(SETTINGS, learning_rate=0.1),
            data=digits_shards,
            target=tmp_path / "model",
            state=tmp_path / "state",
        )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    state = TrainingState(tmp_path, {"seed": 0})
    state.save({"epoch": 1})
    (tmp_path / "unfinished.state").symlink_to("/dev/full")
    with pytest.raises(OSError, match="make room and start again") as caught:
        state.save({"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    assert state.load() == {"epoch": 1}
    state.save({"epoch": 3})
    assert state.load() == {"epoch": 3}


def test_nothing_is_unpickled(tmp_path):
    class Command:
        def __reduce__(self):
            return os.system, ("touch pwned",)

    state = TrainingState(tmp_path, {})
    state.save({"epoch": Command()})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        state.load()
    assert not Path("pwned").exists()
