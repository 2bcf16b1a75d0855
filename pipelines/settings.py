"""From the words of a command line to a recipe that is checked before anything runs."""

import dataclasses
import json
import runpy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from components.config import Choice, Config, field_types, unknown
from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.pruning.config import PruningConfig
from components.training.config import TrainingConfig
from pipelines.recipe import Recipe
from pipelines.recipes import RECIPES

ConfigType = TypeVar("ConfigType", bound=Config)


def load_recipe(word: str) -> Recipe:
    """Look a recipe up by name, or take the value RECIPE of a Python file.

    Raises:
        ValueError: there is no such recipe, no such file, or no recipe in the file.
    """
    if not word.endswith(".py"):
        if word not in RECIPES:
            raise ValueError(f"{unknown('recipe', word, RECIPES)}, or the path of a .py file")
        return RECIPES[word]
    if not Path(word).is_file():
        raise ValueError(f"there is no recipe file {word}")
    try:
        recipe = runpy.run_path(word).get("RECIPE")
    except Exception as error:  # whatever a user's own file may raise
        raise ValueError(f"{word}: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{word} must set RECIPE to a {Recipe.__name__}, got {recipe!r:.60}")
    return recipe


def override(recipe: Recipe, assignment: str) -> Recipe:
    """Set one field: ``section.field=value``, or ``section.field.option=value`` inside a choice.

    Choices inside choices go deeper: ``adversarial.objective.attack.steps=10``.

    A section is one of the recipe's, or a room's name, which stands for every section of that room:
    ``training.epochs=1`` sets all three training stages. Values are JSON, a fraction such as
    ``8/255``, or plain words.

    Raises:
        ValueError: the section, field or option is unknown, or the value is wrong.
    """
    path, equals, text = assignment.partition("=")
    section, *fields = path.strip().split(".")
    if not equals or not fields:
        raise ValueError(f"a setting is written section.field=value, got {assignment!r}")
    known = recipe.sections()
    rooms = {_room(config) for config in known.values()}
    chosen = [name for name, config in known.items() if section in (name, _room(config))]
    if not chosen:
        raise ValueError(unknown("section", section, {*known, *rooms}))
    changes = {name: _set(name, known[name], fields, parse_value(text.strip())) for name in chosen}
    return recipe.with_sections(changes)


def override_field(section: str, config: ConfigType, assignment: str) -> ConfigType:
    """Set one field of one section's settings: ``field=value``, or ``field.option=value``.

    Raises:
        ValueError: the field or option is unknown, or the value is wrong.
    """
    path, equals, text = assignment.partition("=")
    if not equals:
        raise ValueError(f"a setting is written field=value, got {assignment!r}")
    return _set(section, config, path.strip().split("."), parse_value(text.strip()))


def check_choices(recipe: Recipe) -> None:
    """Try every choice of a recipe on a toy, so that a wrong word or value is found now.

    Takes some seconds, for this is where torch is loaded.

    Raises:
        ValueError: a name or an option is unknown, or a value is out of range.
    """
    for name, section in recipe.sections().items():
        for where, attempt, choice in _attempts(section):
            try:
                attempt(choice)
            except Exception as error:  # whatever the choice's own code may raise
                raise ValueError(f"{name}.{where}: {error}") from error


def _room(config: Config) -> str:
    return type(config).__module__.split(".")[1]


def _set(section: str, config: ConfigType, fields: list[str], value: Any) -> ConfigType:
    field, *options = fields
    if field not in field_types(type(config)):
        raise ValueError(unknown(f"field of {section}", field, field_types(type(config))))
    try:
        return dataclasses.replace(config, **{field: _with(getattr(config, field), options, value)})
    except ValueError as error:
        raise ValueError(f"{section}.{error}") from error


def _with(current: Any, options: list[str], value: Any) -> Any:
    if not options:
        return value
    if not isinstance(current, Mapping):
        raise ValueError(f"{'.'.join(options)} cannot be set inside {current!r}, it has no options")
    first, *rest = options
    return {**current, first: _with(current.get(first), rest, value)}


def parse_value(text: str) -> Any:
    """Read JSON, a fraction such as ``8/255``, or else a plain word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else text
    except (ValueError, ZeroDivisionError):
        return text


def _attempts(section: Config) -> Iterator[tuple[str, Callable[[Choice], None], Choice]]:
    """Give, for every choice of a section, where it stands, what tries it, and the choice."""
    from pipelines import trial  # loads torch

    match section:
        case DataConfig():
            yield "source", trial.try_source, section.source
        case TrainingConfig():
            attempt = partial(trial.try_objective, defences=section.defences)
            yield "objective", attempt, section.objective
            yield "optimizer", trial.try_optimizer, section.optimizer
            yield "schedule", trial.try_schedule, section.schedule
            if section.backbone is not None:
                yield "backbone", trial.try_backbone, section.backbone
            if section.selection is not None:
                yield "selection", trial.try_attack, section.selection
            for defence in section.defences:
                yield "defences", trial.try_defence, defence
            for augmentation in section.augmentations:
                yield "augmentations", trial.try_augmentation, augmentation
        case PruningConfig():
            yield "method", trial.try_method, section.method
            if section.attack is not None:
                yield "attack", trial.try_attack, section.attack
            for augmentation in section.augmentations:
                yield "augmentations", trial.try_augmentation, augmentation
        case EvaluationConfig():
            threat = {"epsilon": section.epsilon, "norm": section.norm}
            for attack in section.attacks:
                yield "suite", trial.try_attack, {**threat, **attack}
