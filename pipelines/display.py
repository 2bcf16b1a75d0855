"""What a run shows while it goes on: bars in a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 10.0


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
