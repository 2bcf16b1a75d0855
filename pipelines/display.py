"""What a run shows while it goes on: bars in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from components import progress
from components.tracking import Run

_SECONDS_BETWEEN_LINES = 10.0


class ShownRun(Run):
    """A run that is tracked nowhere and shows its progress.

    Args:
        name: of what is done.
        console: a bar is drawn where it is a terminal; elsewhere plain lines are printed.
    """

    def __init__(self, name: str, console: Console) -> None:
        super().__init__(name)
        self._console = console

    def progress(self, total: int, unit: str) -> progress.Progress:
        """Count the work in sight."""
        if not self._console.is_terminal:
            return super().progress(total, unit)
        return _Bar(self.name, total, unit, self._console)


class _Bar(progress.Progress):
    def __init__(self, step: str, total: int, unit: str, console: Console) -> None:
        super().__init__(step, total, unit)
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
        )
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task(step, total=total, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        self._bar.update(self._task, completed=self.done, note=note)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def show_events(events: Iterable[Mapping[str, Any]], num_steps: int, console: Console) -> None:
    """Follow a run until its events end.

    Args:
        events: what the steps say of themselves.
        num_steps: how many steps the pipeline has.
        console: bars are drawn where it is a terminal.
    """
    if console.is_terminal:
        _show_bars(events, num_steps, console)
    else:
        _show_lines(events, num_steps, console)


def _show_bars(events: Iterable[Mapping[str, Any]], num_steps: int, console: Console) -> None:
    bars: dict[str, TaskID] = {}
    columns = (
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("[bold]steps", total=num_steps, note="")
        for event in events:
            step = event["step"]
            if event["event"] == "start":
                bars[step] = progress.add_task(step, total=None, note="")
            elif event["event"] == "progress":
                progress.update(
                    bars[step],
                    completed=event["done"],
                    total=event["total"],
                    note=event["note"],
                )
            elif event["event"] == "end":
                total = progress.tasks[bars[step]].total or 1
                progress.update(bars[step], completed=total, total=total, note="")
                progress.stop_task(bars[step])
                progress.advance(whole)
            elif event["event"] == "failed":
                progress.update(bars[step], note="[red]failed")
                progress.stop_task(bars[step])


def _show_lines(events: Iterable[Mapping[str, Any]], num_steps: int, console: Console) -> None:
    started: dict[str, float] = {}
    last_line = 0.0
    for event in events:
        step, now = event["step"], event["time"]
        if event["event"] == "start":
            started[step] = last_line = now
            _say(console, f"step {len(started)} of {num_steps}: {step}")
        elif event["event"] == "progress" and now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            _say(console, f"  {event['done']} of {event['total']} {event['note']}".rstrip())
        elif event["event"] == "end":
            _say(console, f"  done in {now - started[step]:.0f} s")


def _say(console: Console, text: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False)
