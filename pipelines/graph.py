"""What a compiled pipeline says of itself: its arguments, and its steps in order."""

from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml


def read_spec(compiled: Path) -> dict[str, Any]:
    """Read what a compiled pipeline says about itself, without what it says of the platform."""
    with compiled.open(encoding="utf-8") as file:
        return dict(next(yaml.safe_load_all(file)))


def read_arguments(compiled: Path) -> dict[str, str]:
    """Give the arguments that a compiled pipeline runs with unless told otherwise."""
    parameters = read_spec(compiled)["root"]["inputDefinitions"]["parameters"]
    return {name: str(parameter["defaultValue"]) for name, parameter in parameters.items()}


def read_steps(compiled: Path) -> tuple[str, ...]:
    """Give the names of the steps as the run graph shows them, producers before consumers."""
    tasks = read_spec(compiled)["root"]["dag"]["tasks"]
    order = TopologicalSorter({key: task.get("dependentTasks", ()) for key, task in tasks.items()})
    return tuple(tasks[key]["taskInfo"]["name"] for key in order.static_order())
