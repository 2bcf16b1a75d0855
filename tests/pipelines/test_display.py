"""What a run shows, from events as steps emit them."""

import io

from rich.console import Console

from pipelines.display import show_events


def events(*, failing: bool = False):
    yield {"step": "prepare-data", "event": "start", "time": 100.0}
    yield {
        "step": "prepare-data",
        "event": "progress",
        "time": 101.0,
        "done": 0,
        "total": 4,
        "note": "",
    }
    yield {
        "step": "prepare-data",
        "event": "progress",
        "time": 115.0,
        "done": 3,
        "total": 4,
        "note": "half",
    }
    if failing:
        yield {"step": "prepare-data", "event": "failed", "time": 116.0, "error": "E", "where": "w"}
    else:
        yield {"step": "prepare-data", "event": "end", "time": 120.0}


def shown(*, terminal: bool, failing: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    show_events(events(failing=failing), 3, console)
    return file.getvalue()


def test_plain_lines_where_there_is_no_terminal():
    text = shown(terminal=False)
    assert "step 1 of 3: prepare-data" in text
    assert "3 of 4 half" in text
    assert "done in 20 s" in text
    assert "\x1b" not in text


def test_bars_in_a_terminal():
    text = shown(terminal=True)
    assert "prepare-data" in text and "4/4" in text and "1/3" in text


def test_a_failed_step_is_marked():
    assert "failed" in shown(terminal=True, failing=True)
