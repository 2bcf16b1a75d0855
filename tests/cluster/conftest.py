"""A Kubeflow Pipelines server, images by digest, and a pipeline that takes seconds."""

import functools
import json
import os
import tempfile
from pathlib import Path

import pytest
from kfp import compiler, dsl

from components import images
from pipelines.compile import compile_pipeline
from pipelines.kubeflow import Server
from tests.cluster.kubeflow_server import KubeflowServer

DIGESTS = {
    images.CPU: f"registry.example/bartizan@sha256:{'c' * 64}",
    images.GPU: f"registry.example/bartizan@sha256:{'9' * 64}",
}


@dsl.component(base_image=images.CPU, install_kfp_package=False)
def divide(above: str, below: str) -> float:
    import time

    time.sleep(int(below) // 1000)
    return int(above) / int(below)


@dsl.pipeline(name="division")
def division(above: str = "6", below: str = "2") -> None:
    divide(above=above, below=below).set_display_name("divide-numbers")


@pytest.fixture
def kubeflow(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("KF_PIPELINES", "MLFLOW"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # where KFP's client keeps a context
    monkeypatch.setattr(Server, "pauses", (0.01, 0.02, 0.05))
    monkeypatch.setattr(Server, "limits", (60.0, 60.0))
    server = KubeflowServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def compiled(tmp_path):
    """Compile the division of six by a number."""

    def compile_division(below="2"):
        target = tmp_path / f"division-{below}.yaml"
        compiler.Compiler().compile(division, str(target), pipeline_parameters={"below": below})
        return target

    return compile_division


@functools.cache
def _content(name, recipe, placement):
    with tempfile.TemporaryDirectory() as folder:
        compile_pipeline(name, *recipe, target := Path(folder) / "pipeline.yaml", *placement)
        return target.read_bytes()


class _Same(tuple):
    """One thing, known by how it is written."""

    def __hash__(self):
        return hash(repr(self))

    def __eq__(self, other):
        return repr(self) == repr(other)


def compile_once(name, recipe, target, placement):
    """Compile as `compile_pipeline` does, which takes half a second, once for all tests."""
    target.write_bytes(_content(name, _Same((recipe,)), _Same((placement,))))


@pytest.fixture
def image_file(tmp_path):
    file = tmp_path / "images.json"
    file.write_text(json.dumps(DIGESTS))
    return file
