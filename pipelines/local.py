"""A pipeline run on this machine: started, watched, stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from components import progress
from pipelines.workspace import RunFolder, Workspace

Event = Mapping[str, Any]

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_STORE_SECONDS = 30.0
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # they end a run as Ctrl-C does


class RunFailed(RuntimeError):
    """A run that did not end well; the message names the step, the cause and where to read on."""


def run_locally(
    pipeline: str, folder: RunFolder, workspace: Workspace, lock: int
) -> Generator[Event]:
    """Execute a run folder's pipeline and give the steps' events as they come.

    Closing the iterator, or an interrupt, ends every process of the run and marks it as killed.

    Args:
        pipeline: its name, for the tracking store.
        folder: holds the compiled pipeline.
        workspace: where the run is tracked.
        lock: file descriptor that keeps the workspace occupied as long as the runner lives.

    Raises:
        RunFailed: a step failed, or the runner did.
    """
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": workspace.tracking_uri,
        "KFP_RUN_ID": folder.run_id,
        progress.EVENTS_FILE: str(folder.events),
        "PYTHONUNBUFFERED": "1",
        # A folder named `components` or `pipelines` where the run is started must not win.
        "PYTHONSAFEPATH": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Threads that spin while they wait slow torch down many times over as soon as anything
        # else wants a core; sleeping ones cost next to nothing on an idle machine.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    environment.pop("MLFLOW_RUN_ID", None)  # a run of the caller's shell is none of these steps'
    command = [sys.executable, "-m", "pipelines.local_runner", str(folder.path), pipeline]
    folder.events.touch()
    failure: Event | None = None
    with _on_signals(_ENDINGS, signal.default_int_handler):
        process = _start([*command, str(workspace.artifact_root)], folder, environment, lock)
        try:
            for event in _follow(folder.events, process):
                failure = event if event["event"] == "failed" else failure
                yield event
        finally:
            with _on_signals((signal.SIGINT, *_ENDINGS), signal.SIG_IGN):
                alive = process.poll() is None
                _stop(process)
                if alive or process.returncode < 0:  # it could not say so itself
                    _mark(folder, environment, "KILLED" if alive else "FAILED")
    if process.returncode:
        raise RunFailed(_explain(failure, folder, process.returncode))


def _follow(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[Event]:
    with path.open(encoding="utf-8") as file:
        pending = ""
        while True:
            ended = process.poll() is not None
            for line in file:
                pending += line
                if pending.endswith("\n"):
                    yield json.loads(pending)
                    pending = ""
            if ended:
                return
            time.sleep(_POLL_SECONDS)


@contextmanager
def _on_signals(
    numbers: Iterable[signal.Signals],
    handler: Callable[[int, FrameType | None], Any] | signal.Handlers,
) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _start(
    command: list[str], folder: RunFolder, environment: Mapping[str, str], lock: int
) -> "subprocess.Popen[bytes]":
    with folder.log.open("wb") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then ends all the others.
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the runner, its steps and their children, also those that outlive it; gently first."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE_SECONDS
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, ending)
            while time.monotonic() < deadline:
                process.poll()  # takes the runner out of the group once it has ended
                os.killpg(process.pid, 0)
                time.sleep(_POLL_SECONDS)
    process.wait()


def _mark(folder: RunFolder, environment: Mapping[str, str], status: str) -> None:
    """End the run in the tracking store, in a process that has the run's environment."""
    code = "import sys; from components import tracking; tracking.close_pipeline_run(*sys.argv[1:])"
    command = [sys.executable, "-c", code, folder.run_id, status]
    with suppress(subprocess.TimeoutExpired):  # a store that does not answer must not hold us
        subprocess.run(command, env=environment, timeout=_STORE_SECONDS, capture_output=True)


def _explain(failure: Event | None, folder: RunFolder, code: int) -> str:
    lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
    if failure:
        first = failure["error"].splitlines()[0]
        where = next((n for n, line in enumerate(lines, 1) if first in line), len(lines))
        return (
            f"{failure['step']} failed: {failure['error']}\n"
            f"  at {failure['where']}, in line {where} of {folder.log}"
        )
    last = "\n".join(f"  {line}" for line in lines[-5:] if line.strip())
    return (
        f"the run ended with code {code} before a step could say why; "
        f"{folder.log} ends with\n{last}"
    )
