"""A pipeline as the file that a cluster and the local runner execute."""

import hashlib
import importlib
from pathlib import Path

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl import base_component

from components import cluster
from components.config import unknown
from pipelines import PIPELINES
from pipelines.graph import read_spec
from pipelines.placement import Placement, place
from pipelines.recipe import Recipe


def compile_pipeline(
    name: str, recipe: Recipe, target: Path, placement: Placement | None = None
) -> None:
    """Write a pipeline with a recipe's settings as the defaults of its arguments.

    Args:
        name: an entry of PIPELINES.
        recipe: its sections are the pipeline's arguments.
        target: the YAML file to write.
        placement: where a cluster runs the steps; without one, images keep their symbolic names.

    Raises:
        ValueError: as `find_pipeline` does.
    """
    pipeline = _placed(name, recipe, placement)
    compiler.Compiler().compile(pipeline, str(target), pipeline_parameters=recipe.arguments())


def write_manifests(
    name: str, recipe: Recipe, compiled: Path, folder: Path, placement: Placement
) -> Path:
    """Write a compiled pipeline as the resources by which a cluster takes it from a repository.

    A server in its Kubernetes-native mode reads them: a Pipeline, and a PipelineVersion that is
    named for its content.

    Args:
        name: an entry of PIPELINES.
        recipe: its settings.
        compiled: what `compile_pipeline` wrote.
        folder: receives the file, and is made if need be.
        placement: where the steps run.
    """
    pipeline, version = _placed(name, recipe, placement), version_name(compiled)
    options = KubernetesManifestOptions(
        pipeline_version_name=version, namespace=cluster.NAMESPACE, include_pipeline_manifest=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{version}.yaml"
    compiler.Compiler().compile(
        pipeline,
        str(target),
        pipeline_parameters=recipe.arguments(),
        kubernetes_manifest_format=True,
        kubernetes_manifest_options=options,
    )
    return target


def version_name(compiled: Path) -> str:
    """Name a version for its content: the same settings, images and pools give the same name."""
    spec_name = read_spec(compiled)["pipelineInfo"]["name"]
    return f"{spec_name}-{hashlib.sha256(compiled.read_bytes()).hexdigest()[:12]}"


def find_pipeline(name: str, recipe: Recipe) -> base_component.BaseComponent:
    """Give the pipeline of a name, if the recipe was made for it.

    Raises:
        ValueError: the pipeline is unknown, or the recipe was made for another one.
    """
    if name not in PIPELINES:
        raise ValueError(unknown("pipeline", name, PIPELINES))
    if recipe.pipeline != name:
        raise ValueError(f"{name} needs a recipe of its own, this one is for {recipe.pipeline}")
    return getattr(importlib.import_module(f"pipelines.{name}"), name)


def _placed(name: str, recipe: Recipe, placement: Placement | None) -> base_component.BaseComponent:
    pipeline = find_pipeline(name, recipe)
    return place(pipeline, placement) if placement else pipeline
