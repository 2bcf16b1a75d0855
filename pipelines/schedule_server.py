"""python -m pipelines.schedule_server WORKSPACE ID: one run of a schedule; and serve, the clock.

Every run is a process of its own in a session of its own: it goes on when the clock is ended, and
notes down its own end. Where a clock is killed between noting a run and starting it, the next one
starts it; where two have started it, the second finds that its turn was taken.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipelines import local_schedule
from pipelines.local_schedule import ScheduledRun, held
from pipelines.workspace import UnusableWorkspace, Workspace

_LOOK_SECONDS = 1.0


def serve(place: Workspace, say: Callable[[str], None]) -> None:
    """Start what is due, until interrupted; runs that go on then are not ended.

    Args:
        place: whose schedules.
        say: gets a line whenever a run starts or has ended.

    Raises:
        UnusableWorkspace: it cannot be written, or its schedules are served already.
    """
    started: dict[int, subprocess.Popen[bytes]] = {}
    with held(place.root / "schedules" / "served", wait=False) as lock:
        if lock is None:
            raise UnusableWorkspace(f"another 'bartizan schedule serve' is on {place.root} already")
        while True:
            for run in local_schedule.plan(place, time.time()):
                if run.id not in started:
                    started[run.id] = _start(place, run)
                    say(f"{run.schedule}: log in {run.log(place)}")
            for id in [id for id, process in started.items() if process.poll() is not None]:
                del started[id]
                if run_ended := local_schedule.find_run(place, id):
                    say(f"{run_ended.schedule}: {run_ended.state}")
            time.sleep(_LOOK_SECONDS)


def take_turn(place: Workspace, id: int) -> None:
    """Wait until a run's turn has come, go through with it, and note down how it ended."""
    run = local_schedule.find_run(place, id)
    if run is None:
        return
    with held(local_schedule.turn_of(place, run.schedule), wait=True) as turn:
        schedule = local_schedule.begin(place, run)
        if turn is None or schedule is None:
            return
        command = [sys.executable, "-m", "pipelines", *schedule.words]
        # The command keeps the turn, too: killing this process does not let the next run begin.
        code = subprocess.call(command, cwd=schedule.folder, pass_fds=(turn.fileno(),))
        local_schedule.end(place, run, "failed" if code else "done")


def _start(place: Workspace, run: ScheduledRun) -> "subprocess.Popen[bytes]":
    log = run.log(place)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pipelines.schedule_server", str(place.root.resolve())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, str(run.id)],
            # A folder named `components` or `pipelines` where a schedule was made must not win.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


if __name__ == "__main__":
    take_turn(Workspace(Path(sys.argv[1])), int(sys.argv[2]))
