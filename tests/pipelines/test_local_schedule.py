"""Schedules of this machine: times, missed and overlapping ones, and a clock that is killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from pipelines import local_schedule
from pipelines.cron import Cron
from pipelines.local_schedule import (
    Schedule,
    add,
    begin,
    end,
    held,
    list_runs,
    list_schedules,
    plan,
    turn_of,
)
from pipelines.schedule_server import take_turn
from pipelines.workspace import Workspace

BARTIZAN = Path(sys.executable).with_name("bartizan")
DAY = 24 * 3600.0


def seconds(text, zone="+00:00"):
    return datetime.fromisoformat(text + zone).timestamp()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("61 * * * *", "cron has a bad minute: '61 \\* \\* \\* \\*'"),
        ("0 0 31 2 *", "cron has a bad day-of-month"),
        ("0 0 3 * * *", "cron must have five fields"),
        ("nightly", "cron must have five fields"),
    ],
)
def test_wrong_cron(text, message):
    with pytest.raises(ValueError, match=message):
        Cron(text, "UTC")


@pytest.mark.parametrize("zone", ["Mars/Phobos", "", "../../etc/passwd"])
def test_wrong_zone(zone):
    with pytest.raises(ValueError, match="a time zone is a name such as Europe/Berlin"):
        Cron("0 3 * * *", zone)


def test_days_are_those_of_a_crontab():
    # 2026-11-21 is a Saturday. 0 is Sunday; of two kinds of days either will do.
    saturday = seconds("2026-11-21T12:00")
    assert Cron("0 3 * * 0", "UTC").next_time(saturday).day == 22
    assert Cron("0 0 13 * 5", "UTC").next_time(saturday).day == 27  # the next Friday


def count(cron, start, stop):
    times, moment = 0, cron.next_time(start - 1)
    while moment.timestamp() < stop:
        assert cron.last_time(moment.timestamp()) == moment
        times, moment = times + 1, cron.next_time(moment.timestamp())
    return times


@pytest.mark.parametrize(("day", "hours"), [("03-29", 23), ("06-01", 24), ("10-25", 25)])
def test_days_on_which_the_clock_is_changed(day, hours):
    offset = "+02:00" if day != "03-29" else "+01:00"
    midnight = seconds(f"2026-{day}T00:00", offset)
    stop = midnight + hours * 3600
    assert count(Cron("*/30 * * * *", "Europe/Berlin"), midnight, stop) == 2 * hours
    assert count(Cron("30 2 * * *", "Europe/Berlin"), midnight, stop) == 1


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path / "workspace")


def make(place, cron="* * * * *", missed="once", words=("list",), name="nightly"):
    folder = str(place.root.parent)
    add(
        place,
        Schedule(name=name, cron=Cron(cron, "UTC"), missed=missed, words=words, folder=folder),
    )
    return Cron(cron, "UTC").next_time(time.time()).timestamp()


def last_state(place):
    ((_, last),) = list_schedules(place)
    return last and last.state


def test_a_time_becomes_one_run_whoever_looks(place):
    due = make(place)
    assert plan(place, due - 1) == []
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: plan(place, due), range(16)))
    assert all(runs == found[0] and len(runs) == 1 for runs in found)
    assert found[0][0].due == due


def test_missed_times_are_made_up_for_once(place):
    due = make(place)
    (run,) = plan(place, due + DAY)
    assert run.due == due + DAY
    assert plan(place, due + 2 * DAY) == [run]  # it waits still, and makes up for all
    assert begin(place, run).name == "nightly"
    assert begin(place, run) is None
    end(place, run, "done")
    assert plan(place, due + 2 * DAY + 59) == []
    assert len(plan(place, due + 2 * DAY + 60)) == 1


def test_missed_times_are_skipped(place):
    due = make(place, "0 * * * *", missed="skip")
    assert plan(place, due + 61) == []
    assert last_state(place) == "missed"
    (run,) = plan(place, due + 3600 + 60)
    with held(turn_of(place, "nightly"), wait=False):
        begin(place, run)
        assert plan(place, due + 2 * 3600) == []
    assert [r.state for r in list_runs(place)] == ["missed", "running", "missed"]


def test_a_run_that_died_holds_up_nothing(place):
    due = make(place, missed="skip")
    (run,) = plan(place, due)
    with held(turn_of(place, "nightly"), wait=False):
        begin(place, run)
        assert last_state(place) == "running"
    assert last_state(place) == "died"
    assert len(plan(place, due + 60)) == 1


def test_a_long_run_is_followed_by_one(place):
    due = make(place)
    (first,) = plan(place, due)
    with held(turn_of(place, "nightly"), wait=False):
        begin(place, first)
        (second,) = plan(place, due + 60)
        assert plan(place, due + 300) == [second]
        end(place, first, "done")
    assert begin(place, second)


def test_pause_resume_remove(place):
    due = make(place)
    plan(place, due)
    local_schedule.pause(place, "nightly")
    assert plan(place, due + DAY) == []
    local_schedule.resume(place, "nightly")
    assert plan(place, time.time()) == []  # what passed meanwhile stays undone
    assert len(plan(place, due + DAY)) == 1
    local_schedule.remove(place, "nightly")
    assert list_schedules(place) == [] and plan(place, due + 2 * DAY) == []
    for change in (local_schedule.pause, local_schedule.resume, local_schedule.remove):
        with pytest.raises(ValueError, match="unknown schedule 'nightly', expected one of"):
            change(place, "nightly")


def test_a_name_is_taken_once(place):
    make(place)
    with pytest.raises(ValueError, match="there is a schedule nightly; remove it first"):
        make(place)
    with pytest.raises(ValueError, match="letters, digits"):
        make(place, name="../away")
    with pytest.raises(ValueError, match="unknown rule for missed runs 'twice'"):
        make(place, name="other", missed="twice")


def test_a_turn_says_how_it_ended(place):
    due = make(place, words=("schedule", "pause", "none"))
    (run,) = plan(place, due)
    take_turn(place, run.id)
    assert last_state(place) == "failed"
    take_turn(place, run.id)  # it was taken
    assert [r.state for r in list_runs(place)] == ["failed"]


@contextmanager
def serving(place):
    """Serve in a process of its own, and kill it at the end."""
    command = [BARTIZAN, "schedule", "serve", "--workspace", place.root]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # A shell that starts the tests in the background has them ignore Ctrl-C; a user has not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def an_hour_passes(place):
    """Let the last look be an hour ago, so that times have come meanwhile."""
    with sqlite3.connect(place.root / "schedules.db", timeout=60) as database:
        database.execute("UPDATE schedules SET seen = seen - 3600")


@pytest.mark.parametrize("sign", ["noted down", "log", "running", "done"])
def test_a_killed_clock_neither_forgets_a_run_nor_doubles_it(place, sign):
    make(place)
    an_hour_passes(place)
    signs = {
        "noted down": lambda: list_runs(place),
        "log": lambda: list(place.root.glob("schedules/nightly/*.txt")),
        "running": lambda: [r for r in list_runs(place) if r.state != "waiting"],
        "done": lambda: last_state(place) == "done",
    }
    with serving(place) as process:
        wait_for(signs[sign], process)
    with serving(place) as process:
        wait_for(signs["done"], process)
    (run,) = list_runs(place)
    assert run.log(place).read_text().count("Pipelines\n") == 1


def test_schedules_are_served_once(place):
    with serving(place) as process:
        wait_for(lambda: _is_held(place), process)
        with serving(place) as other:
            _, errors = other.communicate()
        assert other.returncode == 2
        assert b"another 'bartizan schedule serve'" in errors and errors.count(b"\n") == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130 and b"runs that have begun go on" in errors


def _is_held(place):
    with held(place.root / "schedules" / "served", wait=False) as lock:
        return lock is None


def bartizan(*words, cwd):
    environment = {**os.environ, "TZ": "Europe/Berlin", "COLUMNS": "120"}
    command = [BARTIZAN, "schedule", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_on_the_command_line(tmp_path):
    wrong = bartizan("retrain", "--cron", "0 25 * * *", cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stderr == "bartizan: cron has a bad hour: '0 25 * * *'\n"
    assert not (tmp_path / ".bartizan").exists()

    made = bartizan("retrain", "--cron", "0 3 * * *", "--set", "training.epochs=1", cwd=tmp_path)
    assert made.returncode == 0 and "retrain_digits: first at" in made.stdout
    assert bartizan("pause", "retrain_digits", cwd=tmp_path).returncode == 0
    assert "paused" in bartizan("list", cwd=tmp_path).stdout
    assert bartizan("resume", "retrain_digits", cwd=tmp_path).returncode == 0
    assert " 03:00 CE" in bartizan("list", cwd=tmp_path).stdout
    ((schedule, _),) = list_schedules(Workspace(tmp_path / ".bartizan"))
    workspace = str(tmp_path / ".bartizan")
    assert schedule.words == (
        *("run", "retrain", "--recipe", "retrain_digits", "--wait", "--workspace", workspace),
        *("--set", "training.epochs=1"),
    )
    assert bartizan("remove", "retrain_digits", cwd=tmp_path).returncode == 0
    gone = bartizan("pause", "retrain_digits", cwd=tmp_path)
    assert gone.returncode == 2 and "unknown schedule 'retrain_digits'" in gone.stderr
