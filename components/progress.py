"""How far a step is: events for whoever watches the run, plain log lines for everybody."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

EVENTS_FILE = "BARTIZAN_EVENTS"
"""Environment variable with the path of the JSON-lines file that the local runner watches."""

_SECONDS_BETWEEN_EVENTS = 0.2
_SECONDS_BETWEEN_LINES = 10.0


def emit(step: str, event: str, **facts: Any) -> None:
    """Append one event to the watched file, if there is one.

    One line is one `write` to a file opened for appending, so steps that run side by side never
    mix their lines.
    """
    path = os.environ.get(EVENTS_FILE)
    if path:
        line = json.dumps({"step": step, "event": event, "time": time.time(), **facts})
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class Progress:
    """Counts the work of one step; used as a context manager around the loop.

    Args:
        step: the step's name in the run graph.
        total: how many units of work there are.
        unit: what is counted, in the plural.
        shown: whether anybody is told; of several processes at one work one tells for all.
    """

    def __init__(self, step: str, total: int, unit: str, *, shown: bool = True) -> None:
        self.step, self.total, self.unit, self.shown = step, total, unit, shown
        self.done = 0
        self._started = time.monotonic()
        self._last_event = self._last_line = float("-inf")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more units are done; `note` is a few words on how it goes."""
        self.done += count
        if not self.shown:
            return
        now = time.monotonic()
        finished = self.done >= self.total
        if finished or now - self._last_event >= _SECONDS_BETWEEN_EVENTS:
            self._last_event = now
            emit(self.step, "progress", done=self.done, total=self.total, note=note)
        if finished or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(f"{self.step}: {self.done}/{self.total} {self.unit}{self._estimate(now)} {note}")

    def _estimate(self, now: float) -> str:
        if not 0 < self.done < self.total:
            return ""
        seconds = (now - self._started) * (self.total - self.done) / self.done
        return f", about {seconds:.0f} s left"

    def __enter__(self) -> Self:
        if self.shown:
            emit(self.step, "progress", done=0, total=self.total, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None
