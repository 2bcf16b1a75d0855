"""A pipeline as the file that a cluster and the local runner execute."""

import importlib
import inspect
from pathlib import Path

from kfp import compiler

from components.config import unknown
from pipelines import PIPELINES
from pipelines.recipe import Recipe, arguments


def compile_pipeline(name: str, recipe: Recipe, target: Path) -> None:
    """Write a pipeline with a recipe's settings as the defaults of its arguments.

    Args:
        name: an entry of PIPELINES.
        recipe: its sections are the pipeline's arguments.
        target: the YAML file to write.

    Raises:
        ValueError: the pipeline is unknown, or the recipe was made for another one.
    """
    if name not in PIPELINES:
        raise ValueError(unknown("pipeline", name, PIPELINES))
    pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
    values = arguments(recipe)
    wanted = set(inspect.signature(pipeline.pipeline_func).parameters)
    if wanted != set(values):
        raise ValueError(
            f"{name} needs a recipe with the sections {sorted(wanted)}, got {sorted(values)}"
        )
    compiler.Compiler().compile(pipeline, str(target), pipeline_parameters=values)
