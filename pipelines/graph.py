"""The steps of a compiled pipeline in an order in which they can run."""

from graphlib import TopologicalSorter
from pathlib import Path

import yaml


def read_steps(compiled: Path) -> tuple[str, ...]:
    """Give the names of the steps as the run graph shows them, producers before consumers."""
    with compiled.open(encoding="utf-8") as file:
        spec = next(yaml.safe_load_all(file))
    tasks = spec["root"]["dag"]["tasks"]
    order = TopologicalSorter({key: task.get("dependentTasks", ()) for key, task in tasks.items()})
    return tuple(tasks[key]["taskInfo"]["name"] for key in order.static_order())
