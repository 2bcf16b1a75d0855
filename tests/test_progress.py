"""Events for whoever watches and lines for everybody, neither too many nor mixed up."""

import json
import threading

import pytest

from components.progress import EVENTS_FILE, Progress, emit


@pytest.fixture
def events(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_FILE, str(path))

    def read():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return read


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

    monkeypatch.setattr("components.progress.time.monotonic", lambda: Clock.now)
    return Clock


def test_an_event_is_one_line_with_its_facts(events):
    emit("prune", "figure", name="sparsity", value=0.5, note="ünïts")
    (event,) = events()
    assert event.pop("time") > 0
    facts = {"name": "sparsity", "value": 0.5, "note": "ünïts"}
    assert event == {"step": "prune", "event": "figure", **facts}


def test_nobody_watching_nothing_written(monkeypatch, tmp_path):
    monkeypatch.delenv(EVENTS_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    emit("prune", "figure")
    assert not list(tmp_path.iterdir())


def test_steps_side_by_side_do_not_mix_their_lines(events):
    def work(step):
        for number in range(200):
            emit(step, "progress", number=number, padding="x" * 500)

    threads = [threading.Thread(target=work, args=(f"step-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        own = [event["number"] for event in events() if event["step"] == f"step-{i}"]
        assert own == list(range(200))


def test_from_nothing_to_all(events, clock, capsys):
    with Progress("train", 3, "batches") as progress:
        for _ in range(3):
            clock.now += 20
            progress.advance(note="going well")
    assert [(event["done"], event["total"], event["note"]) for event in events()] == [
        (0, 3, ""),
        (1, 3, "going well"),
        (2, 3, "going well"),
        (3, 3, "going well"),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "train: 1/3 batches, about 40 s left going well",
        "train: 2/3 batches, about 20 s left going well",
        "train: 3/3 batches going well",
    ]


def test_events_and_lines_keep_their_distance_and_the_last_is_never_lost(events, clock, capsys):
    """A thousand advances in 31 seconds: an event each 0.2 s, a line each 10 s."""
    with Progress("train", 1000, "batches") as progress:
        for _ in range(1000):
            clock.now += 1 / 32
            progress.advance()
    assert 100 < len(events()) <= 1000 / 32 / 0.2 + 2 and events()[-1]["done"] == 1000
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1].split("/")[0]) for line in lines] == [1, 321, 641, 961, 1000]


def test_many_units_at_once(events, clock):
    with Progress("evaluate", 100, "images") as progress:
        progress.advance(64)
        clock.now += 1
        progress.advance(36)
    assert progress.done == 100
    assert [event["done"] for event in events()] == [0, 64, 100]


def test_an_error_inside_passes_through(events):
    with pytest.raises(KeyError), Progress("train", 2, "batches"):
        raise KeyError("inside")
    assert [event["done"] for event in events()] == [0]
