"""Start a training where its step runs: in this process, in several here, or on several nodes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from components.models.checkpoint import read_provenance
from components.tracking import Run
from components.training.config import TrainingConfig
from components.training.launch import nodes_wanted, train_on_nodes
from components.training.processes import check_accelerators
from components.training.train import check_processes, train

_TORCHRUN = ("-m", "torch.distributed.run", "--standalone")


class TrainingFailed(RuntimeError):
    """What ended the first of several processes that failed."""


def start_training(
    settings: TrainingConfig,
    *,
    data: Path,
    target: Path,
    initial: Path | None,
    state: Path,
    run: Run,
) -> dict[str, float]:
    """Train as `train` does, in as many processes as there are accelerators or settings ask for.

    Raises:
        ValueError: more processes are wanted than there are accelerators, another number than the
            nodes start, or as `train`.
        TrainingFailed: one of several processes failed; the message has its error.
    """
    if nodes := nodes_wanted():
        check_processes(settings, nodes.count * nodes.processes_per_node)
        return train_on_nodes(settings, nodes, data=data, target=target, initial=initial, run=run)
    if (count := _processes(settings)) == 1:
        return train(settings, data=data, target=target, initial=initial, state=state, run=run)
    words = [settings.to_json(), str(data), str(target), "--state", str(state), "--step", run.name]
    words += ["--initial", str(initial)] if initial else []
    _torchrun(count, [*words, "--leash"], run)
    kept: dict[str, float] = read_provenance(target)["kept"]
    return kept


def _processes(settings: TrainingConfig) -> int:
    check_accelerators(settings.processes)
    return settings.processes or torch.cuda.device_count() or 1


def _torchrun(count: int, words: list[str], run: Run) -> None:
    """Run `components.training` in several processes, which end with this one, however it ends.

    They tell the run of the step themselves, from its environment. Their input is a pipe: it
    closes when this process is gone, even when it is killed, and that ends them.
    """
    command = [sys.executable, *_TORCHRUN, f"--nproc-per-node={count}", "-m", "components.training"]
    with tempfile.TemporaryDirectory() as folder:
        cause = Path(folder) / "cause.json"
        environment = {**os.environ, **run.environment, "TORCHELASTIC_ERROR_FILE": str(cause)}
        threads = max(1, (os.cpu_count() or 1) // count)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        with subprocess.Popen([*command, *words], stdin=subprocess.PIPE, env=environment) as group:
            if group.wait():
                raise TrainingFailed(_cause(cause))


def _cause(path: Path) -> str:
    """Read what torchrun has written about the first process that failed."""
    if path.exists():
        return str(json.loads(path.read_text(encoding="utf-8"))["message"]["message"])
    return (
        "a process ended without an error of its own, as one does that is killed for its memory; "
        "the log says which one"
    )
