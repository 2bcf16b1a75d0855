"""A word with options becomes a function, or a sentence that says what would be right."""

import inspect
from typing import Literal

import pytest

from components.choose import choose

Word = Literal["a", "b"]


def bake(dish, *, degrees: int, minutes: int = 30, seed: int = 0) -> tuple:
    return dish, degrees, minutes, seed


def eat(dish, sauce="none"):
    return dish, sauce


class Plate:
    def __init__(self, dish, *, size: int = 3) -> None:
        self.dish, self.size = dish, size


TABLE = {"bake": bake, "eat": eat, "plate": Plate}


def test_options_are_bound():
    assert choose(TABLE, {"name": "bake", "degrees": 200})("pie") == ("pie", 200, 30, 0)
    baked = choose(TABLE, {"name": "bake", "degrees": 200, "minutes": 5})("pie", seed=7)
    assert baked == ("pie", 200, 5, 7)


def test_a_bare_word_is_a_choice_without_options():
    assert choose(TABLE, "eat")("pie") == ("pie", "none")


def test_a_class_is_as_good_as_a_function():
    plate = choose(TABLE, {"name": "plate", "size": 9})("pie")
    assert isinstance(plate, Plate) and plate.size == 9


def test_what_the_caller_gives_is_not_missing():
    chosen = choose(TABLE, {"name": "bake"}, given=("degrees",))
    assert chosen("pie", degrees=150) == ("pie", 150, 30, 0)


def test_the_chosen_function_still_shows_its_signature():
    chosen = choose(TABLE, {"name": "bake", "degrees": 200})
    assert inspect.signature(chosen).parameters["degrees"].default == 200


def test_the_choice_is_left_alone():
    choice = {"name": "bake", "degrees": 200}
    choose(TABLE, choice)
    assert choice == {"name": "bake", "degrees": 200}


@pytest.mark.parametrize(
    ("choice", "given", "message"),
    [
        ("boil", (), r"unknown name 'boil', expected one of \['bake', 'eat', 'plate'\]"),
        ({"name": "boil"}, (), "unknown name 'boil'"),
        ({"name": "bake"}, (), "'bake' needs the option 'degrees'"),
        (
            {"name": "bake", "degrees": 1, "salt": 2},
            (),
            r"'bake' has no option 'salt', expected one of \['degrees', 'minutes', 'seed'\]",
        ),
        (
            {"name": "bake", "degrees": 1, "seed": 2},
            ("seed",),
            r"'bake' has no option 'seed', expected one of \['degrees', 'minutes'\]",
        ),
        ({"name": "bake", "dish": "pie", "degrees": 1}, (), "'bake' has no option 'dish'"),
        ({"name": "eat", "sauce": "red"}, (), r"'eat' has no option 'sauce', expected one of \[\]"),
        ({}, (), r'a choice must be {"name": ..., options}, got {}'),
        ({"degrees": 1}, (), 'a choice must be {"name": ..., options}'),
        ({"name": ["bake"]}, (), 'a choice must be {"name": ..., options}'),
        ({"name": None}, (), 'a choice must be {"name": ..., options}'),
        (None, (), 'a choice must be {"name": ..., options}, got None'),
        (["bake"], (), 'a choice must be {"name": ..., options}'),
        (bake, (), 'a choice must be {"name": ..., options}'),
    ],
)
def test_wrong_choices(choice, given, message):
    with pytest.raises(ValueError, match=message):
        choose(TABLE, choice, given=given)


def typed(*, flag: bool = False, count: int = 1, size: float | None = None, word: Word = "a"):
    return flag, count, size, word


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("flag", "no", "flag must be of type bool, got 'no'"),
        ("count", 2.5, "count must be of type int, got 2.5"),
        ("count", True, "count must be of type int, got True"),
        ("size", "big", "size must be of type float, got 'big'"),
        ("word", "c", "word must be one of"),
    ],
)
def test_scalar_options_have_the_type_of_the_signature(option, value, message):
    with pytest.raises(ValueError, match=message):
        choose({"typed": typed}, {"name": "typed", option: value})


def test_whole_numbers_pass_for_floats_and_nothing_for_optional():
    made = choose({"typed": typed}, {"name": "typed", "size": 2})()
    assert made == (False, 1, 2.0, "a") and type(made[2]) is float
    assert choose({"typed": typed}, {"name": "typed", "size": None})()[2] is None
