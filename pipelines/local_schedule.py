"""Schedules of this machine: what is to run when, and what became of it, in the workspace.

Whoever changes anything does so in one transaction of a SQLite file. That a time has come, and that
a run is to be made of it, is written in one; so a process that is killed at any moment leaves
neither a time that was forgotten nor one that will be found a second time.
"""

import fcntl
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from components.config import unknown
from pipelines.cron import Cron
from pipelines.workspace import UnusableWorkspace, Workspace

_ON_TIME_SECONDS = 60.0  # what is later was missed

State = Literal["waiting", "running", "done", "failed", "died", "missed"]

_TABLES = """
CREATE TABLE IF NOT EXISTS schedules (
    name TEXT PRIMARY KEY, cron TEXT, zone TEXT, missed TEXT, words TEXT, folder TEXT,
    paused INTEGER, seen REAL
);
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, schedule TEXT, due REAL, state TEXT,
    UNIQUE (schedule, due)
);
"""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A command of ours that runs again by the clock.

    Attributes:
        name: tells it from the others.
        cron: its times.
        missed: what becomes of times that pass while nobody serves, or while the run before still
            goes on: ``once`` makes up for all of them by one run, ``skip`` does not.
        words: of the command.
        folder: where it is given.
        paused: whether its times pass without a run.
        seen: the last of its times that was dealt with, or when it was made; seconds since 1970.
    """

    name: str
    cron: Cron
    missed: str
    words: tuple[str, ...]
    folder: str
    paused: bool = False
    seen: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"a name must be letters, digits, - and _ alone, got {self.name!r}")
        if self.missed not in ("once", "skip"):
            raise ValueError(unknown("rule for missed runs", self.missed, ("once", "skip")))


@dataclass(frozen=True)
class ScheduledRun:
    """One time of a schedule.

    Attributes:
        id: its number.
        schedule: name.
        due: seconds since 1970.
        state: ``waiting`` for its turn, ``running``, ``done``, ``failed``, ``died`` without saying
            how it ended, or ``missed`` and not made up for.
    """

    id: int
    schedule: str
    due: float
    state: State

    def log(self, place: Workspace) -> Path:
        """Say where what it prints is kept."""
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.due))
        return folder_of(place, self.schedule) / f"{moment}.txt"


def add(place: Workspace, schedule: Schedule) -> None:
    """Add a schedule; its first time is the next one from now on.

    Raises:
        ValueError: there is one of that name.
    """
    with _changing(place) as database:
        if _read(database, schedule.name):
            raise ValueError(
                f"there is a schedule {schedule.name}; remove it first, or give another --name"
            )
        cron, words = schedule.cron, json.dumps(schedule.words)
        row = (schedule.name, cron.text, cron.zone, schedule.missed, words, schedule.folder)
        database.execute(
            "INSERT INTO schedules VALUES (?, ?, ?, ?, ?, ?, 0, ?)", (*row, time.time())
        )


def pause(place: Workspace, name: str) -> None:
    """Let a schedule's times pass without a run; one that goes on is not ended.

    Raises:
        ValueError: there is no such schedule.
    """
    with _changing(place, name) as database:
        database.execute("UPDATE schedules SET paused = 1 WHERE name = ?", (name,))
        database.execute("DELETE FROM runs WHERE schedule = ? AND state = 'waiting'", (name,))


def resume(place: Workspace, name: str) -> None:
    """Let a schedule's times count again from now on.

    Raises:
        ValueError: there is no such schedule.
    """
    with _changing(place, name) as database:
        values = (time.time(), name)
        database.execute(
            "UPDATE schedules SET paused = 0, seen = ? WHERE name = ? AND paused", values
        )


def remove(place: Workspace, name: str) -> None:
    """Forget a schedule and its runs; one that goes on is not ended, and logs stay.

    Raises:
        ValueError: there is no such schedule.
    """
    with _changing(place, name) as database:
        database.execute("DELETE FROM schedules WHERE name = ?", (name,))
        database.execute("DELETE FROM runs WHERE schedule = ?", (name,))


def list_schedules(place: Workspace) -> list[tuple[Schedule, ScheduledRun | None]]:
    """Give every schedule with its last run."""
    if not place.schedules.is_file():
        return []
    with _changing(place) as database:
        schedules = _read(database)
        for schedule in schedules:
            _bury(place, database, schedule.name)
        found = _read_runs(database, "id IN (SELECT max(id) FROM runs GROUP BY schedule)")
        last = {run.schedule: run for run in found}
    return [(schedule, last.get(schedule.name)) for schedule in schedules]


def list_runs(place: Workspace) -> list[ScheduledRun]:
    """Give the runs of all schedules, the oldest first."""
    with _changing(place) as database:
        return _read_runs(database)


def plan(place: Workspace, now: float) -> list[ScheduledRun]:
    """Make runs of the times that have come, and give all that wait for their turn."""
    with _changing(place) as database:
        for schedule in _read(database):
            due = schedule.cron.last_time(now).timestamp()
            if schedule.paused or due <= schedule.seen:
                continue
            _bury(place, database, schedule.name)
            open_runs = _read_runs(
                database, "schedule = ? AND state IN ('waiting', 'running')", schedule.name
            )
            late = now - due > _ON_TIME_SECONDS
            state = "missed" if schedule.missed == "skip" and (late or open_runs) else "waiting"
            # One that waits already makes up for this time, too.
            if state == "missed" or all(run.state != "waiting" for run in open_runs):
                row = (schedule.name, due, state)
                database.execute("INSERT INTO runs (schedule, due, state) VALUES (?, ?, ?)", row)
            values = (due, schedule.name)
            database.execute("UPDATE schedules SET seen = ? WHERE name = ?", values)
        return _read_runs(database, "state = 'waiting'")


def begin(place: Workspace, run: ScheduledRun) -> Schedule | None:
    """Say that a run's turn has come, and give what to do; None if somebody else has done it.

    The caller holds the schedule's turn, so that no other run of it can be alive.
    """
    with _changing(place) as database:
        _end_running(database, run.schedule, "died")
        values = (run.id,)
        begun = database.execute(
            "UPDATE runs SET state = 'running' WHERE id = ? AND state = 'waiting'", values
        )
        found = _read(database, run.schedule)
        return found[0] if begun.rowcount and found else None


def end(place: Workspace, run: ScheduledRun, state: State) -> None:
    """Say how a run ended that holds its schedule's turn."""
    with _changing(place) as database:
        _end_running(database, run.schedule, state)


def find_run(place: Workspace, id: int) -> ScheduledRun | None:
    """Give a run by its number, if it is there."""
    with _changing(place) as database:
        return next(iter(_read_runs(database, "id = ?", id)), None)


def folder_of(place: Workspace, name: str) -> Path:
    """Say where a schedule keeps its logs."""
    return place.root.resolve() / "schedules" / name


@contextmanager
def held(file: Path, *, wait: bool) -> Iterator[IO[str] | None]:
    """Hold a lock that ends with the last process that has it open; None if somebody else does.

    Args:
        file: made where it is missing.
        wait: until it is free.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield lock


def turn_of(place: Workspace, name: str) -> Path:
    """Name the lock that a run of a schedule holds while it goes on."""
    return folder_of(place, name) / "turn"


@contextmanager
def _changing(place: Workspace, name: str = "") -> Iterator[sqlite3.Connection]:
    """Give the tables for one transaction; with a name, for one about that schedule.

    Raises:
        ValueError: there is no such schedule, or the workspace cannot be written.
    """
    with closing(_connect(place)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        if name and not _read(connection, name):
            known = {schedule.name for schedule in _read(connection)}
            raise ValueError(unknown("schedule", name, known))
        yield connection


def _connect(place: Workspace) -> sqlite3.Connection:
    try:
        place.root.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(place.schedules, timeout=60, isolation_level=None)
        connection.executescript(_TABLES)
    except (OSError, sqlite3.Error) as error:
        raise UnusableWorkspace(f"{place.schedules} cannot be written: {error}") from error
    return connection


def _read(database: sqlite3.Connection, name: str = "") -> list[Schedule]:
    """Give all schedules, or the one of a name."""
    rows = database.execute("SELECT * FROM schedules WHERE ? IN ('', name) ORDER BY name", (name,))
    return [
        Schedule(
            name=name,
            cron=Cron(cron, zone),
            missed=missed,
            words=tuple(json.loads(words)),
            folder=folder,
            paused=bool(paused),
            seen=seen,
        )
        for name, cron, zone, missed, words, folder, paused, seen in rows
    ]


def _read_runs(
    database: sqlite3.Connection, condition: str = "TRUE", *values: object
) -> list[ScheduledRun]:
    """Give the runs for which a condition of SQL holds, the oldest first."""
    query = f"SELECT id, schedule, due, state FROM runs WHERE {condition} ORDER BY id"
    return [ScheduledRun(*row) for row in database.execute(query, values)]


def _bury(place: Workspace, database: sqlite3.Connection, name: str) -> None:
    """Let a run that is said to go on, but holds no turn any more, be dead."""
    with held(turn_of(place, name), wait=False) as turn:
        if turn:
            _end_running(database, name, "died")


def _end_running(database: sqlite3.Connection, name: str, state: State) -> None:
    values = (state, name)
    database.execute("UPDATE runs SET state = ? WHERE schedule = ? AND state = 'running'", values)
