"""What a compiled pipeline says of itself: its arguments, and its steps in order."""

import json
import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

_FIELD = re.compile(r'parseJson\(string_value\)\["(\w+)"\]')


def read_spec(compiled: Path) -> dict[str, Any]:
    """Read what a compiled pipeline says about itself, without what it says of the platform."""
    with compiled.open(encoding="utf-8") as file:
        return dict(next(yaml.safe_load_all(file)))


def read_arguments(compiled: Path) -> dict[str, Any]:
    """Give the arguments that a compiled pipeline runs with unless told otherwise."""
    return _arguments(read_spec(compiled))


def read_steps(compiled: Path) -> tuple[str, ...]:
    """Give the names by which the steps announce themselves, producers before consumers.

    The steps of a loop are named once for each of its items, and those that branches share once:
    only one of the branches is taken.
    """
    spec = read_spec(compiled)
    return tuple(dict.fromkeys(_steps(spec, spec["root"]["dag"], {})))


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    return {name: parameter["defaultValue"] for name, parameter in parameters.items()}


def _steps(
    spec: Mapping[str, Any], dag: Mapping[str, Any], item: Mapping[str, str]
) -> Iterator[str]:
    tasks = dag["tasks"]
    order = TopologicalSorter({key: task.get("dependentTasks", ()) for key, task in tasks.items()})
    for task in map(tasks.__getitem__, order.static_order()):
        inner = spec["components"][task["componentRef"]["name"]].get("dag")
        if inner is None:
            yield _step(task, item)
        else:
            for each in _items(spec, task) if "parameterIterator" in task else [item]:
                yield from _steps(spec, inner, each)


def _step(task: Mapping[str, Any], item: Mapping[str, str]) -> str:
    """Give what a task is handed as its step's name: words, or a field of the loop's item."""
    given = task["inputs"]["parameters"]["step"]
    if "runtimeValue" in given:
        return str(given["runtimeValue"]["constant"])
    field = _FIELD.fullmatch(given["parameterExpressionSelector"])
    assert field, given
    return item[field[1]]


def _items(spec: Mapping[str, Any], task: Mapping[str, Any]) -> list[dict[str, str]]:
    """Give what a loop goes through: an argument of the pipeline, or a list written into it."""
    items = task["parameterIterator"]["items"]
    if "raw" in items:
        return list(json.loads(items["raw"]))
    return list(_arguments(spec)[items["inputParameter"].removeprefix("pipelinechannel--")])
