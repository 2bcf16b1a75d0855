"""draw_pipeline: the right arrows, no box on another, words for those who cannot see it."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from pipelines.compile import compile_pipeline
from pipelines.graph import read_spec
from pipelines.picture import draw_pipeline
from pipelines.recipes import RECIPES

SVG = "{http://www.w3.org/2000/svg}"

TRAIN_ROBUST = {
    "prepare-data": [],
    "train-stage-one": ["prepare-data"],
    "fine-tune-stage-two": ["prepare-data", "train-stage-one"],
    "adversarial-training": ["prepare-data", "fine-tune-stage-two"],
    "prune": ["prepare-data", "adversarial-training"],
    "evaluate-stage-one": ["prepare-data", "train-stage-one"],
    "evaluate-stage-two": ["prepare-data", "fine-tune-stage-two"],
    "evaluate-adversarial": ["prepare-data", "adversarial-training"],
    "evaluate-attacks": ["prepare-data", "prune"],
    "compare-models": ["evaluate-attacks"],
    "promote-model": ["compare-models", "evaluate-attacks", "prune"],
}


def compiled(graph):
    """A spec as the compiler writes it; keys differ from the names that are shown."""
    tasks = {}
    for name, producers in graph.items():
        artifacts = {
            f"input-{i}": {"taskOutputArtifact": {"producerTask": f"task-{p}"}}
            for i, p in enumerate(producers)
        }
        tasks[f"task-{name}"] = {
            "taskInfo": {"name": name},
            "dependentTasks": [f"task-{p}" for p in producers],
            "inputs": {
                "artifacts": artifacts,
                "parameters": {"seed": {"runtimeValue": {"constant": 1}}},
            },
        }
    return {"pipelineInfo": {"name": "train-robust"}, "root": {"dag": {"tasks": tasks}}}


def boxes(svg):
    """Left, top, width and height of each box by the name in it."""
    root = ElementTree.fromstring(svg)
    names = [text.text for text in root.iter(f"{SVG}text")]
    frames = [
        tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
    ]
    return dict(zip(names, frames, strict=True))


def arrows(svg):
    """Producer and step of every arrow, found by where its ends touch a box."""
    places = boxes(svg)
    feet = {(x + w / 2, y + h): name for name, (x, y, w, h) in places.items()}
    heads = {(x + w / 2, y): name for name, (x, y, w, h) in places.items()}
    found = set()
    for path in ElementTree.fromstring(svg).findall(f"{SVG}path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
        found.add((feet[tuple(numbers[:2])], heads[tuple(numbers[-2:])]))
    return found


def test_only_arrows_that_say_something_new_are_drawn():
    assert arrows(draw_pipeline(compiled(TRAIN_ROBUST))) == {
        ("prepare-data", "train-stage-one"),
        ("train-stage-one", "fine-tune-stage-two"),
        ("fine-tune-stage-two", "adversarial-training"),
        ("adversarial-training", "prune"),
        ("train-stage-one", "evaluate-stage-one"),
        ("fine-tune-stage-two", "evaluate-stage-two"),
        ("adversarial-training", "evaluate-adversarial"),
        ("prune", "evaluate-attacks"),
        ("evaluate-attacks", "compare-models"),
        ("compare-models", "promote-model"),
    }


GRAPHS = {
    "train_robust": TRAIN_ROBUST,
    "one step": {"only": []},
    "two apart": {"a": [], "b": []},
    "diamond": {"a": [], "b": ["a"], "c": ["a"], "d": ["a"], "e": ["b", "c", "d"]},
    "long arrow": {"a": [], "b": ["a"], "c": ["b"], "d": ["c"], "x": ["a"], "y": ["x", "d"]},
    "all reports compared": TRAIN_ROBUST
    | {"compare-models": [name for name in TRAIN_ROBUST if name.startswith("evaluate")]},
}


@pytest.mark.parametrize("graph", ["train_robust", "all reports compared"])
def test_main_line_runs_straight_down_and_evaluations_stand_beside_it(graph):
    places = boxes(draw_pipeline(compiled(GRAPHS[graph])))
    aside = {"evaluate-stage-one", "evaluate-stage-two", "evaluate-adversarial"}
    main = [places[name] for name in TRAIN_ROBUST if name not in aside]
    assert len({x for x, *_ in main}) == 1
    assert [y for _, y, *_ in main] == sorted({y for _, y, *_ in main})
    assert {places[name][0] for name in aside} == {places["evaluate-stage-one"][0]}
    assert places["evaluate-stage-one"][0] > places["prune"][0] + places["prune"][2]


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_nothing_lies_on_top_of_a_box(graph):
    svg = draw_pipeline(compiled(graph))
    places = boxes(svg)
    assert set(places) == set(graph)
    for (ax, ay, aw, ah), (bx, by, bw, bh) in itertools.combinations(places.values(), 2):
        assert ax + aw < bx or bx + bw < ax or ay + ah < by or by + bh < ay
    inside = [(x, x + w, y, y + h) for x, y, w, h in places.values()]
    for path in ElementTree.fromstring(svg).findall(f"{SVG}path"):
        for px, py in points_on(path.get("d")):
            assert not any(x0 < px < x1 and y0 < py < y1 for x0, x1, y0, y1 in inside)


def points_on(way):
    """Points along a path of M, C and L."""
    x = y = 0.0
    for command, text in re.findall(r"([MCL])([^MCL]*)", way):
        numbers = [float(n) for n in text.split()]
        if command == "M":
            x, y = numbers
        elif command == "L":
            ax, ay = numbers
            yield from ((x + (ax - x) * t / 20, y + (ay - y) * t / 20) for t in range(21))
            x, y = numbers
        else:
            ax, ay, bx, by, cx, cy = numbers
            for t in (i / 20 for i in range(21)):
                weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
                yield (
                    sum(w * p for w, p in zip(weights, (x, ax, bx, cx), strict=True)),
                    sum(w * p for w, p in zip(weights, (y, ay, by, cy), strict=True)),
                )
            x, y = cx, cy


def test_every_arrow_points_down():
    for graph in GRAPHS.values():
        svg = draw_pipeline(compiled(graph))
        places = boxes(svg)
        assert all(places[producer][1] < places[step][1] for producer, step in arrows(svg))


def test_words_stand_for_the_picture():
    root = ElementTree.fromstring(draw_pipeline(compiled(TRAIN_ROBUST)))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "title words"
    assert root.find(f"{SVG}title").text == "Steps of train-robust"
    words = root.find(f"{SVG}desc").text
    assert words.startswith("prepare-data. train-stage-one follows prepare-data.")
    assert "promote-model follows compare-models." in words


def test_inputs_count_where_no_dependency_is_named():
    spec = compiled({"a": [], "b": [], "c": ["a"]})
    task = spec["root"]["dag"]["tasks"]["task-c"]
    del task["dependentTasks"]
    task["inputs"]["parameters"]["n"] = {"taskOutputParameter": {"producerTask": "task-b"}}
    assert arrows(draw_pipeline(spec)) == {("a", "c"), ("b", "c")}


def test_names_are_escaped():
    svg = draw_pipeline(compiled({"<script>&": []}))
    assert "<script" not in svg
    assert set(boxes(svg)) == {"<script>&"}


def test_a_circle_and_an_empty_pipeline_are_refused():
    with pytest.raises(ValueError, match="wait for each other"):
        draw_pipeline(compiled({"a": ["b"], "b": ["a"]}))
    with pytest.raises(ValueError, match="at least one step"):
        draw_pipeline({"root": {}})


def test_train_robust_as_compiled(tmp_path):
    compile_pipeline("train_robust", RECIPES["tiny"], tmp_path / "train_robust.yaml")
    svg = draw_pipeline(read_spec(tmp_path / "train_robust.yaml"))
    by_hand = draw_pipeline(compiled(TRAIN_ROBUST))
    assert boxes(svg) == boxes(by_hand)
    assert arrows(svg) == arrows(by_hand)
