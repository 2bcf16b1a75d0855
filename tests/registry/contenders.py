"""Eight processes that log, register and promote at once; prints what became of each.

Its argument is a folder with ``checkpoint``, ``report`` and ``verdict`` of a first model; the store
is that of the environment.
"""

import json
import multiprocessing
import sys
from pathlib import Path

from components import tracking
from components.registry.champions import StaleVerdict, crown, find_champion
from components.registry.config import PromotionConfig
from components.registry.promote import promote

PROCESSES, POINTS, ROUNDS = 8, 40, 3
SETTINGS = PromotionConfig(model_name="contested")


def try_to_contend(number, challenger, barrier, results):
    """Let nobody wait for a process that has failed."""
    try:
        contend(number, challenger, barrier, results)
    except BaseException:
        barrier.abort()
        raise


def contend(number, challenger, barrier, results):
    """Log a curve, register a version as the first champion, then try for each later reign."""
    won = []
    with tracking.step_run(f"contender-{number}", "promotion", SETTINGS) as run:
        barrier.wait()
        for step in range(POINTS):
            run.metrics({"curve": number + step / POINTS}, step=step)
        try:
            promote(SETTINGS, **challenger)
            won.append(0)
        except StaleVerdict:
            pass
        for turn in range(1, ROUNDS):
            barrier.wait()
            expected = find_champion("contested")
            barrier.wait()
            if expected == str(number):
                continue
            try:
                crown("contested", str(number), expected=expected, how="promotion", reason="r")
                won.append(turn)
            except StaleVerdict:
                pass
    results.put((number, won))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    challenger = {name: folder / name for name in ("checkpoint", "report", "verdict")}
    context = multiprocessing.get_context("fork")  # mlflow is loaded once
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=try_to_contend, args=(number, challenger, barrier, results))
        for number in range(1, PROCESSES + 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process failed")
    print(json.dumps(dict(results.get() for _ in processes)))
