"""The overlays as the cluster gets them, and the pods in them."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

OVERLAYS = Path(__file__).parents[2] / "manifests" / "overlays"


class Pod(NamedTuple):
    """A template of pods."""

    owner: str
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


class Manifests(list[dict[str, Any]]):
    """All documents of an overlay."""

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [document for document in self if document["kind"] in kinds]

    def names(self, kind: str) -> set[str]:
        return {document["metadata"]["name"] for document in self.of(kind)}

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [d for d in self.of(kind) if d["metadata"]["name"] == name]
        return found

    def pods(self) -> Iterator[Pod]:
        for document in self:
            templates = (
                [document["spec"]["template"]] if "template" in document.get("spec", ()) else []
            )
            if document["kind"] == "TrainingRuntime":
                jobs = templates[0]["spec"]["replicatedJobs"]
                templates = [job["template"]["spec"]["template"] for job in jobs]
            for template in templates:
                labels = template["metadata"]["labels"]
                yield Pod(document["metadata"]["name"], document["kind"], labels, template["spec"])


@pytest.fixture(scope="session", params=sorted(path.name for path in OVERLAYS.iterdir()))
def manifests(request) -> Manifests:
    """One overlay after the other, rendered without any server."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl to render the overlays")
    command = ["kubectl", "kustomize", OVERLAYS / request.param]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True)
    return Manifests(yaml.safe_load_all(rendered.stdout))
