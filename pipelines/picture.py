"""draw_pipeline: the steps of a compiled pipeline as an SVG picture, earliest on top."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any
from xml.etree import ElementTree

Graph = Mapping[str, Sequence[str]]
"""Every step with the steps it waits for."""

Place = tuple[int, int]
"""Row and column."""

_BOX_HEIGHT, _ROW_GAP, _COLUMN_GAP, _MARGIN = 38, 34, 26, 12
_LETTER_WIDTH, _PADDING, _TIP = 7.8, 26, 8

# The boxes bring their own background and the arrows are of a middle grey: the picture is legible
# on a light and on a dark page without knowing which one it is on.
_STYLE = """
rect { fill: #eef4fb; stroke: #6b87a8; stroke-width: 1.5; }
text { fill: #12263f; font: 500 14px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
path { fill: none; stroke: #768390; stroke-width: 1.7; }
marker path { fill: #768390; stroke: none; }
"""


def draw_pipeline(spec: Mapping[str, Any]) -> str:
    """Draw the steps of a pipeline and what waits for what.

    An arrow that follows from two others is left out.

    Args:
        spec: what the YAML of a pipeline compiled for Kubeflow Pipelines v2 holds.

    Returns:
        A complete SVG file, with the same in words for those who cannot see it.

    Raises:
        ValueError: the spec has no steps, or they wait for each other in a circle.
    """
    tasks = spec["root"].get("dag", {}).get("tasks", {})
    if not tasks:
        raise ValueError("a pipeline to draw must have at least one step, got none")
    names = {key: str(task["taskInfo"]["name"]) for key, task in tasks.items()}
    graph = _without_shortcuts({key: _producers(task) for key, task in tasks.items()})
    title = str(spec.get("pipelineInfo", {}).get("name", "pipeline"))
    return _svg(title, names, graph, _arrange(graph))


def _producers(task: Mapping[str, Any]) -> list[str]:
    """Give the tasks a task waits for, each once, in the order of the spec."""
    inputs = task.get("inputs", {})
    artifacts = (
        source["taskOutputArtifact"]["producerTask"]
        for source in inputs.get("artifacts", {}).values()
        if "taskOutputArtifact" in source
    )
    parameters = (
        source["taskOutputParameter"]["producerTask"]
        for source in inputs.get("parameters", {}).values()
        if "taskOutputParameter" in source
    )
    return list(dict.fromkeys([*task.get("dependentTasks", ()), *artifacts, *parameters]))


def _without_shortcuts(graph: Graph) -> Graph:
    """Leave out what follows from other edges: the transitive reduction."""
    earlier: dict[str, set[str]] = {}
    for step in _in_order(graph):
        earlier[step] = set(graph[step]).union(*(earlier[producer] for producer in graph[step]))
    return {
        step: [p for p in producers if not any(p in earlier[other] for other in producers)]
        for step, producers in graph.items()
    }


def _in_order(graph: Graph) -> list[str]:
    """Sort the steps so that each comes after those it waits for."""
    done: dict[str, None] = {}
    while len(done) < len(graph):
        ready = [s for s, wants in graph.items() if s not in done and all(p in done for p in wants)]
        if not ready:
            raise ValueError(f"these steps wait for each other: {sorted(set(graph) - set(done))}")
        done.update(dict.fromkeys(ready))
    return list(done)


def _arrange(graph: Graph) -> dict[tuple[str, ...], Place]:
    """Give every step a place, and every arrow one in each row that it passes.

    A row is the length of the longest way to a step. The longest way of all runs straight down the
    left; everything else goes to the first free column near what it waits for.

    Returns:
        Places by ``(step,)``; those that an arrow passes by ``(producer, step, row)``.
    """
    rows: dict[str, int] = {}
    for step in _in_order(graph):
        rows[step] = 1 + max((rows[producer] for producer in graph[step]), default=-1)
    spine = set(_longest_way(graph, rows))
    columns: dict[str, int] = {}
    places: dict[tuple[str, ...], Place] = {}

    def settle(key: tuple[str, ...], row: int, wanted: int) -> int:
        column = next(c for c in count(wanted) if (row, c) not in places.values())
        places[key] = (row, column)
        return column

    for step in sorted(rows, key=lambda step: (rows[step], step not in spine)):
        near = [columns[producer] for producer in graph[step]]
        wanted = 0 if step in spine else max(1, round(sum(near) / max(1, len(near))))
        columns[step] = settle((step,), rows[step], wanted)
        for producer in graph[step]:
            lane = 1
            for row in range(rows[producer] + 1, rows[step]):
                lane = settle((producer, step, str(row)), row, lane)
    return places


def _longest_way(graph: Graph, rows: Mapping[str, int]) -> Iterator[str]:
    step: str | None = max(rows, key=lambda step: rows[step])
    while step is not None:
        yield step
        step = max(graph[step], key=lambda producer: rows[producer], default=None)


def _svg(
    title: str, names: Mapping[str, str], graph: Graph, places: Mapping[tuple[str, ...], Place]
) -> str:
    box = round(max(map(len, names.values())) * _LETTER_WIDTH + _PADDING)
    last_row, last_column = (max(place[axis] for place in places.values()) for axis in (0, 1))
    width = 2 * _MARGIN + (last_column + 1) * (box + _COLUMN_GAP) - _COLUMN_GAP
    height = 2 * _MARGIN + (last_row + 1) * (_BOX_HEIGHT + _ROW_GAP) - _ROW_GAP

    def corner(place: Place) -> tuple[float, float]:
        row, column = place
        return _MARGIN + column * (box + _COLUMN_GAP), _MARGIN + row * (_BOX_HEIGHT + _ROW_GAP)

    root = _frame(width, height, title, _in_words(names, graph))
    for step, producers in graph.items():
        for producer in producers:
            between = range(places[(producer,)][0] + 1, places[(step,)][0])
            passed = [(producer, step, str(row)) for row in between]
            stops = [corner(places[stop]) for stop in ((producer,), *passed, (step,))]
            way = _way(stops, box / 2)
            ElementTree.SubElement(root, "path", {"d": way, "marker-end": "url(#tip)"})
    for step, name in names.items():
        _draw_box(root, name, corner(places[(step,)]), box)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _frame(width: float, height: float, title: str, words: str) -> ElementTree.Element:
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "role": "img",
            "aria-labelledby": "title words",
        },
    )
    ElementTree.SubElement(root, "title", {"id": "title"}).text = f"Steps of {title}"
    ElementTree.SubElement(root, "desc", {"id": "words"}).text = words
    ElementTree.SubElement(root, "style").text = _STYLE
    tip = {"id": "tip", "orient": "auto", "markerUnits": "userSpaceOnUse"}
    tip |= {"markerWidth": f"{_TIP}", "markerHeight": f"{_TIP}"}
    tip |= {"refX": f"{_TIP}", "refY": f"{_TIP / 2:g}"}
    marker = ElementTree.SubElement(ElementTree.SubElement(root, "defs"), "marker", tip)
    shape = f"M0 0L{_TIP} {_TIP / 2:g}L0 {_TIP}z"
    ElementTree.SubElement(marker, "path", {"d": shape})
    return root


def _way(stops: Sequence[tuple[float, float]], middle: float) -> str:
    """Lead an arrow from the foot of a box, through the rows between, to the head of another."""
    x, y = stops[0][0] + middle, stops[0][1] + _BOX_HEIGHT
    way = f"M{x:g} {y:g}"
    for left, top in stops[1:]:
        if left + middle != x:
            way += f"C{x:g} {top:g} {left + middle:g} {y:g} {left + middle:g} {top - _TIP:g}"
        x, y = left + middle, top + _BOX_HEIGHT
        way += f"L{x:g} {top if (left, top) == stops[-1] else y:g}"
    return way


def _draw_box(
    root: ElementTree.Element, name: str, corner: tuple[float, float], width: float
) -> None:
    x, y = corner
    frame = {"x": x, "y": y, "width": width, "height": _BOX_HEIGHT, "rx": 9}
    ElementTree.SubElement(root, "rect", {key: f"{value:g}" for key, value in frame.items()})
    place = {"x": f"{x + width / 2:g}", "y": f"{y + _BOX_HEIGHT / 2 + 5:g}"}
    ElementTree.SubElement(root, "text", {**place, "text-anchor": "middle"}).text = name


def _in_words(names: Mapping[str, str], graph: Graph) -> str:
    sentences = []
    for step in _in_order(graph):
        producers = " and ".join(names[producer] for producer in graph[step])
        sentences.append(f"{names[step]} follows {producers}." if producers else f"{names[step]}.")
    return " ".join(sentences)
