"""choose(TABLE, {"name": ..., options}): a recipe's word becomes a function with its options."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from components.config import Choice, check_value, unknown

Result = TypeVar("Result")


def choose(
    table: Mapping[str, Callable[..., Result]], choice: Choice | str, *, given: tuple[str, ...] = ()
) -> Callable[..., Result]:
    """Look up a choice's function and bind the choice's options to it.

    Args:
        table: functions by name.
        choice: the name under ``"name"``, every other entry an option of that function; or the bare
            name.
        given: keyword arguments that the caller supplies itself, so no option may set them and
            none of them counts as missing.

    Raises:
        ValueError: the name is not in the table, an option is not the function's or is the
            caller's to give, or a required option is missing.
    """
    if isinstance(choice, str):
        choice = {"name": choice}
    if not isinstance(choice, Mapping) or not isinstance(choice.get("name"), str):
        raise ValueError(f'a choice must be {{"name": ..., options}}, got {choice!r}')
    name = choice["name"]
    if name not in table:
        raise ValueError(unknown("name", name, table))
    function = table[name]
    options = {key: value for key, value in choice.items() if key != "name"}
    settable = _settable(function, given)
    for option in options:
        if option not in settable:
            raise ValueError(
                f"{name!r} has no option {option!r}, expected one of {sorted(settable)}"
            )
    options = {option: _checked(function, option, value) for option, value in options.items()}
    for option, parameter in settable.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"{name!r} needs the option {option!r}")
    return partial(function, **options)


def _checked(function: Callable[..., Any], option: str, value: Any) -> Any:
    """Refuse a scalar of the wrong type, such as the word "no" where true or false is wanted."""
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    hint = hints.get(option)
    if get_origin(hint) is Literal and value not in get_args(hint):
        words = sorted(map(str, get_args(hint)))
        raise ValueError(f"{option} must be one of {words}, got {value!r}")
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    scalar = {*kinds} <= {bool, int, float, str, NoneType} and kinds != (NoneType,)
    return check_value(option, value, hint) if scalar else value


def _settable(function: Callable[..., Any], given: tuple[str, ...]) -> dict[str, inspect.Parameter]:
    """Options are the keyword-only parameters; what comes before the star is the caller's data."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in given
    }
