"""Runs and curves in MLflow, and the progress of a step; without a server it says so once."""

import functools
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from components import tracked_runs
from components.config import Config
from components.endings import termination_as_exit, where
from components.journal import Note, append
from components.progress import Progress, emit
from components.secrecy import hide_secrets, hide_tracking_password
from components.sending import insist, sent
from components.tracked_runs import URI as URI  # named here, too: it belongs to the interface
from components.tracked_runs import Status as Status

PIPELINE_RUN = "KFP_RUN_ID"
"""Environment variable with the id of the pipeline run that a step belongs to."""

JOURNAL = "BARTIZAN_JOURNAL"
"""Environment variable with the file for a step's notes, where another process sends them."""

AUTHOR = "BARTIZAN_AUTHOR"
"""Environment variable that tells a process for which attempt at a step it works."""

_PASSED_ON = (URI, PIPELINE_RUN, "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


class Run:
    """What a step tells the outside world; one that nobody listens to keeps it to itself.

    Args:
        name: of the step in the run graph.
        tell: gets every note.
        environment: see below.

    Attributes:
        name: as above.
        environment: variables with which `continued_run` tells the same run in another process;
            JOURNAL is a file of this machine, to be left out elsewhere.
    """

    def __init__(
        self,
        name: str,
        tell: Callable[[Note], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.environment = name, dict(environment or {})
        self._tell = tell or _ignore

    def settings(self, prefix: str, config: Config) -> None:
        """Record settings as parameters under a prefix, and exactly as a file."""
        self._tell({"kind": "settings", "prefix": prefix, "text": config.to_json()})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record a point of each curve."""
        points = {name: float(value) for name, value in values.items()}
        self._tell({"kind": "metrics", "values": points, "step": step or 0, "time": time.time()})

    def folder(self, path: Path, name: str) -> None:
        """Keep a folder's files under a name; the folder must outlive the step."""
        self._tell({"kind": "folder", "path": str(path.resolve()), "name": name})

    def progress(self, total: int, unit: str) -> Progress:
        """Count the step's work, for whoever watches."""
        return Progress(self.name, total, unit)

    def end(self, status: Status) -> None:
        """Say how the step ended."""
        self._tell({"kind": "end", "status": status})


def _ignore(note: Note) -> None:
    pass


UNTRACKED = Run("untracked")
"""Records nothing; what a verb gets that is called outside any step."""


class _Unheard(Run):
    def progress(self, total: int, unit: str) -> Progress:
        return Progress(self.name, total, unit, shown=False)


UNHEARD = _Unheard("unheard")
"""Shows no progress either; what a verb gets in a process beside the one that tells for all."""


@contextmanager
def step_run(
    step: str, prefix: str, settings: Config, *, unsent: Path | None = None
) -> Iterator[Run]:
    """Announce a step, track it, and say how it ended, also when it fails or is stopped.

    A tracking store that cannot be reached stops no step: what it misses is sent when it is back.

    Args:
        step: its name in the run graph.
        prefix: of its settings among the run's parameters.
        settings: of the step.
        unsent: folder that keeps what could not be sent by the end, if there is one that outlives
            the step; None keeps it among temporary files.
    """
    hide_tracking_password()
    emit(step, "start")
    with termination_as_exit():
        try:
            with _tracked(step, secrets.token_hex(8), unsent) as run, _outcome_told(run):
                run.settings(prefix, settings)
                yield run
        except BaseException as error:
            cause = hide_secrets(f"{type(error).__name__}: {error}")
            emit(step, "failed", error=cause, where=where(error))
            raise
    emit(step, "end")


@contextmanager
def continued_run(step: str) -> Iterator[Run]:
    """Tell the run of a step that another process has begun, and will end.

    It is known by the other one's `Run.environment`; without that, nothing is tracked.

    Args:
        step: its name in the run graph.
    """
    hide_tracking_password()
    author = os.environ.get(AUTHOR)
    with termination_as_exit():
        if not author:
            yield Run(step)
            return
        with _tracked(step, author, None) as run:
            yield run


def open_pipeline_run(
    pipeline: str,
    run_id: str,
    recipe: Mapping[str, str] | None = None,
    *,
    artifact_root: str | None = None,
) -> str:
    """Open the run under which the steps of a pipeline run are nested.

    Args:
        pipeline: its name.
        run_id: what the steps find in KFP_RUN_ID.
        recipe: sections as JSON text, recorded as parameters and files.
        artifact_root: where a new experiment in a local store keeps its artifacts; a server
            decides that for itself.

    Returns:
        Where to look: an address on a server, MLflow's run id in a local store, nothing without a
        tracking store.
    """
    uri = os.environ.get(URI)
    if not uri:
        _say_untracked()
        return ""
    remote = uri.startswith("http")
    experiment, parent = tracked_runs.open_pipeline_run(
        run_id, f"{pipeline} {run_id}", recipe or {}, None if remote else artifact_root
    )
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{parent}" if remote else parent


def close_pipeline_run(run_id: str, status: Status) -> None:
    """End a pipeline's run, and with it the steps' runs that died without a word."""
    if os.environ.get(URI):
        insist(functools.partial(tracked_runs.close_pipeline_run, run_id, status))


@contextmanager
def write_for_steps(journal: Path) -> Iterator[None]:
    """Send to the tracking store what steps started by this process note down.

    Loading MLflow takes a step seconds of computing; this way one process pays for all. Steps that
    need MLflow for more than their notes send for themselves.

    Args:
        journal: file that receives the notes; what could not be sent by the end is kept beside it.
    """
    if not os.environ.get(URI):
        yield
        return
    os.environ[JOURNAL] = str(journal)
    try:
        with sent(journal, journal.with_name("unsent.jsonl")):
            yield
    finally:
        os.environ.pop(JOURNAL, None)


@contextmanager
def _tracked(step: str, author: str, unsent: Path | None) -> Iterator[Run]:
    """Give a run whose notes are sent, by this process or by one that has asked for them."""
    if not os.environ.get(URI):
        _say_untracked()
        yield Run(step)
        return
    passed_on = {name: value for name in _PASSED_ON if (value := os.environ.get(name))}
    run_id, pipeline_run = passed_on.get("MLFLOW_RUN_ID", ""), passed_on.get(PIPELINE_RUN, "")
    journal, checked = os.environ.get(JOURNAL), _nothing
    with ExitStack() as stack:
        if not journal or "mlflow" in sys.modules:
            journal = stack.enter_context(tempfile.TemporaryDirectory()) + "/notes.jsonl"
            kept = (unsent or Path(tempfile.gettempdir())) / f"unsent-{author}.jsonl"
            checked = stack.enter_context(sent(Path(journal), kept))
        if "mlflow" in sys.modules:  # then the step writes to the store itself, in the same run
            run_id = run_id or tracked_runs.open_step_run(step, author, pipeline_run)
            stack.enter_context(tracked_runs.active(run_id))

        def tell(note: Note) -> None:
            checked()
            append(Path(journal), step, author, note)

        tell({"kind": "open", "run_id": run_id, "pipeline_run": pipeline_run})
        yield Run(step, tell, {**passed_on, AUTHOR: author, JOURNAL: journal})


@contextmanager
def _outcome_told(run: Run) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        run.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.end("FINISHED")


def _nothing() -> None:
    pass


@functools.cache
def _say_untracked() -> None:
    print(f"{URI} is not set, so nothing is tracked")
