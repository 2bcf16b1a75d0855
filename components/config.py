"""Config: the frozen settings of a step, checked when made, exact in JSON both ways."""

import dataclasses
import json
import math
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

from components.secrecy import refuse_passwords

Choice = Mapping[str, Any]
"""A word with options that a table turns into a function: ``{"name": "pgd", "steps": 20}``."""


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number may be; written as ``Annotated[float, Range(above=0, at_most=1)]``."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(
            f"{word} {value:g}" for word, value in words.items() if value is not None
        )


@dataclasses.dataclass(frozen=True)
class OneOf:
    """The words a setting may be; written as ``Annotated[str, OneOf("sgd", "adam")]``."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def __contains__(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return "one of " + ", ".join(self.words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every step's settings: types and ranges are checked on construction.

    Fields are scalars, choices, and tuples of these, annotated with `Range` or `OneOf` where only
    some values make sense. Rules that join several fields go into `__post_init__`.

    Raises:
        ValueError: a field has the wrong type, lies outside its range, or carries a password.
    """

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            value = getattr(self, name)
            refuse_passwords(name, value)  # first, for what else is wrong is said with the value
            object.__setattr__(self, name, check_value(name, value, hint))

    def to_json(self) -> str:
        """Write the settings as JSON text; `from_json` gives back an equal value."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read settings that `to_json` wrote.

        Raises:
            ValueError: the text is no JSON object, names an unknown field or lacks a required one,
                or a value is wrong.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} must be a JSON object, got {text[:60]}")
        known = field_types(cls)
        for name in values:
            if name not in known:
                raise ValueError(unknown("setting", name, known))
        required = {f.name for f in dataclasses.fields(cls) if _has_no_default(f)}
        if required - values.keys():
            raise ValueError(f"{cls.__name__} needs {sorted(required - values.keys())}")
        return cls(**values)


def field_types(cls: type[Config]) -> dict[str, Any]:
    """Give each field of a config with its annotation, ranges included."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def unknown(kind: str, name: str, known: Any) -> str:
    """Say in one line that a word is not known, and which ones are."""
    return f"unknown {kind} {name!r}, expected one of {sorted(known)}"


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def check_value(name: str, value: Any, hint: Any) -> Any:
    """Give a setting in the form its annotation asks for.

    Raises:
        ValueError: it has the wrong type or lies outside its range.
    """
    if get_origin(hint) is Annotated:
        plain, *limits = get_args(hint)
        value = check_value(name, value, plain)
        for limit in limits:
            if value is not None and value not in limit:
                raise ValueError(f"{name} must be {limit}, got {value!r}")
        return value
    if get_origin(hint) in (Union, UnionType):
        return _checked_union(name, value, get_args(hint))
    if get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{name} must be a list, got {value!r}")
        return tuple(check_value(f"{name}[{i}]", v, get_args(hint)[0]) for i, v in enumerate(value))
    if get_origin(hint) is Choice.__origin__:  # type: ignore[attr-defined]
        return _checked_choice(name, value)
    return _checked_scalar(name, value, hint)


def _checked_union(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    (kind,) = (k for k in kinds if k is not type(None))  # the only unions are `X | None`
    return check_value(name, value, kind)


def _checked_choice(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f'{name} must be a word with options, {{"name": ..., ...}}, got {value!r}')
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold what JSON can say, got {value!r}: {error}") from error
    return plain


def _checked_scalar(name: str, value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return value
