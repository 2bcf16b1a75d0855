"""A pipeline as the file that a cluster and the local runner execute."""

import importlib
import inspect
from pathlib import Path

from kfp import compiler
from kfp.dsl import base_component

from components.config import unknown
from pipelines import PIPELINES
from pipelines.recipe import Recipe, arguments, sections


def compile_pipeline(name: str, recipe: Recipe, target: Path) -> None:
    """Write a pipeline with a recipe's settings as the defaults of its arguments.

    Args:
        name: an entry of PIPELINES.
        recipe: its sections are the pipeline's arguments.
        target: the YAML file to write.

    Raises:
        ValueError: as `find_pipeline` does.
    """
    pipeline = find_pipeline(name, recipe)
    compiler.Compiler().compile(pipeline, str(target), pipeline_parameters=arguments(recipe))


def find_pipeline(name: str, recipe: Recipe) -> base_component.BaseComponent:
    """Give the pipeline of a name, if the recipe was made for it.

    Raises:
        ValueError: the pipeline is unknown, or the recipe was made for another one.
    """
    if name not in PIPELINES:
        raise ValueError(unknown("pipeline", name, PIPELINES))
    pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
    wanted, given = set(inspect.signature(pipeline.pipeline_func).parameters), set(sections(recipe))
    if wanted != given:
        raise ValueError(
            f"{name} needs a recipe with the sections {sorted(wanted)}, got {sorted(given)}"
        )
    return pipeline
