"""Settings are checked when made, say what is wrong in one line, and survive JSON exactly."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import Choice, Config, OneOf, Range, field_types, unknown


@dataclass(frozen=True, kw_only=True)
class Oven(Config):
    """Every kind of field there is."""

    name: str
    heat: Annotated[float, Range(above=0, at_most=1)] = 0.5
    minutes: Annotated[int, Range(at_least=1)] = 10
    limit: Annotated[int | None, Range(at_least=0, below=100)] = None
    light: bool = True
    mode: Annotated[str, OneOf("top", "bottom")] = "top"
    dish: Choice = field(default_factory=lambda: {"name": "pie"})
    sauce: Choice | None = None
    courses: tuple[Choice, ...] = ()
    racks: tuple[Annotated[float, Range(at_least=0)], ...] = ()


numbers = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers() | numbers | st.text()
options = st.dictionaries(
    st.text(),
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.lists(inner, max_size=3)
    ),
    max_size=3,
)
choices = st.builds(lambda name, more: {**more, "name": name}, st.text(), options)
ovens = st.builds(
    Oven,
    name=st.text(),
    heat=st.floats(0, 1, exclude_min=True),
    minutes=st.integers(min_value=1),
    limit=st.none() | st.integers(0, 99),
    light=st.booleans(),
    mode=st.sampled_from(["top", "bottom"]),
    dish=choices,
    sauce=st.none() | choices,
    courses=st.lists(choices, max_size=3),
    racks=st.lists(st.floats(0, allow_infinity=False), max_size=3),
)


@given(ovens)
def test_json_gives_back_an_equal_value(oven):
    assert Oven.from_json(oven.to_json()) == oven
    assert Oven.from_json(Oven.from_json(oven.to_json()).to_json()).to_json() == oven.to_json()


@given(ovens)
def test_replacing_nothing_changes_nothing(oven):
    assert dataclasses.replace(oven) == oven


def test_numbers_are_exact_and_keep_their_type():
    oven = Oven(name="x", heat=8 / 255, racks=(1e-300, 0.1))
    again = Oven.from_json(oven.to_json())
    assert again.heat == 8 / 255 and again.racks == (1e-300, 0.1)
    assert type(again.minutes) is int and type(again.light) is bool


def test_values_are_put_into_their_own_form():
    oven = Oven(name="x", heat=1, racks=[0, 2], courses=["soup", {"name": "pie", "sizes": (1, 2)}])
    assert type(oven.heat) is float and oven.racks == (0.0, 2.0)
    assert oven.courses == ({"name": "soup"}, {"name": "pie", "sizes": [1, 2]})
    assert oven.dish == {"name": "pie"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "name must be of type str, got 3"),
        ({"name": None}, "name must be of type str, got None"),
        ({"minutes": 1.0}, r"minutes must be of type int, got 1\.0"),
        ({"minutes": True}, "minutes must be of type int, got True"),
        ({"minutes": "10"}, "minutes must be of type int, got '10'"),
        ({"minutes": 0}, "minutes must be at least 1, got 0"),
        ({"light": 1}, "light must be of type bool, got 1"),
        ({"heat": "hot"}, "heat must be of type float, got 'hot'"),
        ({"heat": True}, "heat must be of type float, got True"),
        ({"heat": None}, "heat must be of type float, got None"),
        ({"heat": 0}, r"heat must be above 0 and at most 1, got 0\.0"),
        ({"heat": 8}, r"heat must be above 0 and at most 1, got 8\.0"),
        ({"heat": math.nan}, "heat must be finite, got nan"),
        ({"heat": math.inf}, "heat must be finite, got inf"),
        ({"limit": 100}, "limit must be at least 0 and below 100, got 100"),
        ({"limit": -1}, "limit must be at least 0 and below 100, got -1"),
        ({"limit": 1.5}, r"limit must be of type int, got 1\.5"),
        ({"mode": "left"}, "mode must be one of top, bottom, got 'left'"),
        ({"racks": 1.0}, r"racks must be a list, got 1\.0"),
        ({"racks": "12"}, "racks must be a list, got '12'"),
        ({"racks": [0.5, -1]}, r"racks\[1\] must be at least 0, got -1\.0"),
        ({"racks": [0.5, "x"]}, r"racks\[1\] must be of type float, got 'x'"),
        ({"dish": None}, "dish must be a word with options, .* got None"),
        ({"dish": 3}, 'dish must be a word with options, {"name": ..., ...}, got 3'),
        ({"dish": {"size": 3}}, "dish must be a word with options, .* got {'size': 3}"),
        ({"dish": {"name": 3}}, "dish must be a word with options, .* got {'name': 3}"),
        ({"dish": {"name": "pie", "x": math.nan}}, "dish must hold what JSON can say"),
        ({"dish": {"name": "pie", "x": {1, 2}}}, "dish must hold what JSON can say"),
        ({"courses": {"name": "pie"}}, "courses must be a list"),
        ({"courses": ["soup", 3]}, r"courses\[1\] must be a word with options, .* got 3"),
    ],
)
def test_wrong_values(changes, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        Oven(**{"name": "x", **changes})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", r"Oven must be a JSON object, got \[\]"),
        ("null", "Oven must be a JSON object, got null"),
        ('"pie"', 'Oven must be a JSON object, got "pie"'),
        ("{}", r"Oven needs \['name'\]"),
        (
            '{"name": "x", "heet": 1}',
            "unknown setting 'heet', expected one of "
            r"\['courses', 'dish', 'heat', 'light', 'limit', 'minutes', 'mode', 'name', 'racks', "
            r"'sauce'\]",
        ),
        ('{"name": "x", "heat": NaN}', "heat must be finite, got nan"),
        ('{"name": "x", "heat": 1e999}', "heat must be finite, got inf"),
        ('{"name": "x", "minutes": 10.0}', r"minutes must be of type int, got 10\.0"),
    ],
)
def test_wrong_text(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Oven.from_json(text)


def test_settings_are_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Oven(name="x").heat = 0.1
    with pytest.raises(TypeError):
        Oven("x")


def test_rules_that_join_fields_come_after_the_checks():
    @dataclass(frozen=True, kw_only=True)
    class Pair(Config):
        low: float
        high: float

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.low > self.high:
                raise ValueError(f"low must not exceed high, got {self.low} and {self.high}")

    assert Pair.from_json('{"low": 1, "high": 2}') == Pair(low=1.0, high=2.0)
    with pytest.raises(ValueError, match=r"low must not exceed high, got 3\.0 and 2\.0"):
        Pair(low=3, high=2)
    with pytest.raises(ValueError, match="high must be of type float"):
        Pair(low=3, high="x")


def test_text_is_plain_json():
    values = json.loads(Oven(name="x", heat=0.25).to_json())
    assert values["heat"] == 0.25 and values["dish"] == {"name": "pie"} and values["limit"] is None
    assert list(values) == list(field_types(Oven))


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        (Range(at_least=0), [0, 5], [-1e-9], "at least 0"),
        (Range(above=0), [1e-9], [0, -1], "above 0"),
        (Range(at_most=1), [1, -5], [1.001], "at most 1"),
        (Range(below=1), [0.999], [1], "below 1"),
        (Range(at_least=0.5, below=1), [0.5, 0.9], [0.4, 1], "at least 0.5 and below 1"),
        (OneOf("sgd", "adam"), ["sgd", "adam"], ["SGD", ""], "one of sgd, adam"),
    ],
)
def test_limits(limits, inside, outside, words):
    assert all(value in limits for value in inside)
    assert not any(value in limits for value in outside)
    assert str(limits) == words


def test_unknown_words_are_met_with_the_known_ones_in_order():
    assert unknown("name", "pgdd", {"pgd": 1, "fgsm": 2}) == (
        "unknown name 'pgdd', expected one of ['fgsm', 'pgd']"
    )
