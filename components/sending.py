"""Sending: notes from a journal to the tracking store, in order, also across an outage.

python -m components.sending UNSENT.jsonl
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, takewhile
from pathlib import Path

from components import tracked_runs
from components.journal import Entry, Note, append, follow
from components.tracked_runs import MOST_POINTS, URI, Point

_SECONDS_BETWEEN_WRITES = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between two attempts
_LAST_SECONDS = 20.0  # of attempts after a step's end; a cluster waits 30 for one that it stops


@contextmanager
def sent(journal: Path, unsent: Path) -> Iterator[Callable[[], None]]:
    """Send what is appended to a journal, by a thread; what waits for the store is the thread.

    Args:
        journal: made here; the first note of each author opens its run.
        unsent: file that receives, as a journal, what could not be sent by the end.

    Yields:
        A function that raises what the store has refused.
    """
    journal.touch()
    ended = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send, journal, unsent, ended)

        def check() -> None:
            if sending.done():
                sending.result()

        try:
            yield check
        finally:
            ended.set()
    sending.result()


def send(journal: Path, unsent: Path, ended: threading.Event) -> bool:
    """Send a journal's notes as they come, until the event says that no more will come.

    Nothing is sent twice, and the notes of one author arrive in their order.

    Args:
        journal: as for `sent`.
        unsent: as for `sent`.
        ended: as for `follow`.

    Returns:
        Whether all of it was sent.
    """
    senders: dict[str, _Sender] = {}
    persist, looks = _Persistence(ended), follow(journal, ended)
    try:
        for entries in looks:
            for entry in entries:
                sender = senders.setdefault(entry.author, _Sender(entry.step, entry.author))
                sender.waiting.append(entry.note)
            for sender in senders.values():
                if sender.due():
                    persist(sender.send)
        for sender in senders.values():
            persist(sender.send)
    except _OutOfTime as error:
        _keep(unsent, senders.values(), chain.from_iterable(looks))
        print(
            f"{error}; what it has missed is in {unsent}, to be sent by "
            f"python -m components.sending {unsent}"
        )
        return False
    return True


def insist(action: Callable[[], None]) -> None:
    """Do something at the very end, and only say so if the store cannot be reached for a while."""
    ended = threading.Event()
    ended.set()
    try:
        _Persistence(ended)(action)
    except _OutOfTime as error:
        print(error)


class _Sender:
    """Writes the notes of one attempt at a step into its run, in few and bounded batches.

    Attributes:
        waiting: notes that were not sent yet, in their order.
    """

    def __init__(self, step: str, author: str) -> None:
        self.step, self.author = step, author
        self.waiting: list[Note] = []
        self._run_id = ""
        self._last_write = float("-inf")

    def due(self) -> bool:
        """Say whether it is time to send what waits."""
        rested = time.monotonic() - self._last_write >= _SECONDS_BETWEEN_WRITES
        return rested or any(note["kind"] != "metrics" for note in self.waiting)

    def send(self) -> None:
        """Send what waits; after an error the rest still waits."""
        while self.waiting:
            if count := self._next_points():
                points = [point for note in self.waiting[:count] for point in _points(note)]
                tracked_runs.log_points(self._run_id, points)
                self._last_write = time.monotonic()
            else:
                self._tell(self.waiting[0])
            del self.waiting[: count or 1]

    def unsent(self) -> Iterator[Note]:
        """Give what waits in such a form that somebody else can send it."""
        if self._run_id:
            yield {"kind": "continue", "run_id": self._run_id}
        yield from self.waiting

    def _next_points(self) -> int:
        """Count the notes on top that are points of curves and together fit into one write."""
        count = points = 0
        for note in takewhile(lambda note: note["kind"] == "metrics", self.waiting):
            points += len(note["values"])
            if count and points > MOST_POINTS:
                break
            count += 1
        return count

    def _tell(self, note: Note) -> None:
        match note["kind"]:
            case "open" if not self._run_id:
                self._open(note["run_id"], note["pipeline_run"])
            case "continue":
                self._run_id = note["run_id"]
            case "settings":
                tracked_runs.log_settings(self._run_id, note["prefix"], note["text"])
            case "folder":
                tracked_runs.log_folder(self._run_id, note["path"], note["name"])
            case "end":
                tracked_runs.end_run(self._run_id, note["status"])

    def _open(self, given: str, pipeline_run: str) -> None:
        if given:
            tracked_runs.resume_run(given)
        self._run_id = given or tracked_runs.open_step_run(self.step, self.author, pipeline_run)


class _OutOfTime(Exception):
    """The tracking store could not be reached for as long as there was time."""


class _Persistence:
    """Repeats what meets an outage, with growing pauses, until it succeeds or time is up."""

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended
        self._out, self._give_up = False, float("inf")

    def __call__(self, action: Callable[[], None]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                action()
            except Exception as error:
                if not tracked_runs.is_outage(error):
                    raise
                self._wait(pause, error)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self._out:
                    print(f"{_store()} answers again")
                self._out = False
                return

    def _wait(self, seconds: float, error: Exception) -> None:
        if not self._out:
            print(f"{_store()} cannot be reached, notes wait for it: {_first_line(error)}")
        self._out = True
        if not self._ended.wait(seconds):
            return
        self._give_up = min(self._give_up, time.monotonic() + _LAST_SECONDS)
        left = self._give_up - time.monotonic()
        if left <= 0:
            raise _OutOfTime(f"{_store()} could not be reached") from error
        time.sleep(min(_FIRST_PAUSE, left))


def _points(note: Note) -> Iterator[Point]:
    for name, value in note["values"].items():
        yield Point(name, value, int(note["time"] * 1000), note["step"])


def _keep(unsent: Path, senders: Iterable[_Sender], rest: Iterable[Entry]) -> None:
    """Write what could not be sent; the file may be the journal that it came from."""
    unsent.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unsent.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    for sender in senders:
        for note in sender.unsent():
            append(unfinished, sender.step, sender.author, note)
    for entry in rest:
        append(unfinished, entry.step, entry.author, entry.note)
    unfinished.replace(unsent)


def _store() -> str:
    return f"the tracking store {os.environ.get(URI, '')}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def main() -> int:
    """Send what a step has left in a file."""
    parser = argparse.ArgumentParser(prog="components.sending", description=__doc__)
    parser.add_argument("unsent", type=Path, help="what a step could not send")
    path = parser.parse_args().unsent
    if not os.environ.get(URI):
        parser.error(f"{URI} must be set, to the address of the tracking store")
    if not path.is_file():
        parser.error(f"there is no file {path}")
    ended = threading.Event()
    ended.set()
    if not send(path, path, ended):
        return 1
    path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
