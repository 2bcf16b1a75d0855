"""MLflow model versions: registered with what was found out about them, and read back."""

import hashlib
import importlib.metadata
import os
import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from components.evaluation.report import PAGE, REPORT, SAMPLES, RobustnessReport, load_report
from components.models.checkpoint import WORDS
from components.registry.champions import (
    CHAMPION,
    StaleVerdict,
    find_champion,
    find_model,
    registry,
)
from components.registry.compare import compare
from components.registry.config import PromotionConfig
from components.registry.verdict import Verdict, save_verdict
from components.tracking import PIPELINE_RUN

_ROOM = Path(__file__).parent.parent
_CHECKPOINT, _REPORT = "checkpoint", "report"
_SERVED_BY = "components.models.serving"
_SERVING_NEEDS = ("jaxtyping", "numpy", "safetensors", "timm", "torch")
_LONGEST_TAG = 4000
_ATTEMPTS = 20

HASH = "sha256."
"""What the tag of a registered file's hash begins with."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """What the registry itself says of a version.

    Attributes:
        name: of the registered model.
        number: of the version, as text.
        aliases: that point to it.
        created: milliseconds since 1970.
        run_id: of the run that registered it; empty for none.
        tags: by name.
    """

    name: str
    number: str
    aliases: tuple[str, ...]
    created: int
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """Its address for MLflow."""
        return version_uri(self.name, self.number)


def list_versions(name: str) -> list[Version]:
    """Give every version of a registered model, the newest first.

    Raises:
        ValueError: there is no registry, or no such model in it.
    """
    aliases = {**find_model(name).aliases, CHAMPION: find_champion(name)}
    found = registry().search_model_versions(f"name = '{name}'")
    return [
        Version(
            name=name,
            number=str(version.version),
            aliases=tuple(
                a for a, number in aliases.items() if str(number) == str(version.version)
            ),
            created=version.creation_timestamp,
            run_id=version.run_id or "",
            tags=dict(version.tags),
        )
        for version in sorted(found, key=lambda version: -int(version.version))
    ]


def find_version(name: str, word: str) -> Version:
    """Give the version that a number or an alias stands for.

    Raises:
        ValueError: there is none.
    """
    versions = list_versions(name)
    for version in versions:
        if word == version.number or word in version.aliases:
            return version
    words = [v.number for v in versions] + sorted(a for v in versions for a in v.aliases)
    raise ValueError(f"{name} has no version {word}; it has {', '.join(words)}")


def fetch_report(model: str, target: Path) -> Path:
    """Download the report of a model version.

    Args:
        model: such as ``models:/name/3`` or ``models:/name@champion``.
        target: folder that receives the report's folder.
    """
    return _fetch(model, _REPORT, target)


def fetch_checkpoint(model: str, target: Path) -> Path:
    """Download the checkpoint of a model version, addressed as for `fetch_report`."""
    return _fetch(model, f"data/{_CHECKPOINT}", target)


def fetch_words(model: str, target: Path) -> Path:
    """Download the checkpoint's words alone, without its weights, into a folder."""
    return _fetch(model, f"data/{_CHECKPOINT}/{WORDS}", target)


def read_recipe(version: Version) -> dict[str, str]:
    """Give the settings of every step of the pipeline run that a version comes from, by name.

    Without a pipeline run they are those of the run that registered it; none where that is gone.
    """
    client, run_id = registry(), version.run_id
    params: dict[str, str] = {}
    while run_id:
        try:
            data = client.get_run(run_id).data
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            break
        params, run_id = data.params, data.tags.get("mlflow.parentRunId", "")
    return dict(params)


def tag_version(version: Version, tags: Mapping[str, str]) -> None:
    """Add tags to a version."""
    for key, text in tags.items():
        registry().set_model_version_tag(version.name, version.number, key, text[:_LONGEST_TAG])


def judge(settings: PromotionConfig, report: Path, again: Path | None = None) -> Verdict:
    """Compare a report with that of the registry's champion.

    Args:
        settings: which registered model, and the rules.
        report: folder of the challenger's report.
        again: folder of a later report on the champion than the one it was registered with.

    Raises:
        StaleVerdict: the later report is not about the champion of now.
    """
    challenger, version = load_report(report), find_champion(settings.model_name)
    if version is None:
        return compare(challenger, None, settings)
    with tempfile.TemporaryDirectory() as folder:
        champion = load_report(
            fetch_report(version_uri(settings.model_name, version), Path(folder))
        )
    if again:
        measured, champion = champion[0], load_report(again)
        if champion[0].model["checkpoint"] != measured.model["checkpoint"]:
            raise StaleVerdict(
                f"the champion that was measured is not version {version} of "
                f"{settings.model_name}, which is champion now; compare again"
            )
    return compare(challenger, champion, settings, champion_version=version)


def register(
    settings: PromotionConfig,
    *,
    checkpoint: Path,
    report: Path,
    verdict: Verdict,
    image_shape: tuple[int, ...],
) -> str:
    """Add a version to a registered model, with everything that was found out about it.

    The version holds the checkpoint, the code that rebuilds the model from it, the report and the
    verdict. It loads without this project being installed, and nothing in it is pickled.

    Args:
        settings: which registered model, and the rules it was judged by.
        checkpoint: folder of the model.
        report: folder of its evaluation.
        verdict: of comparing it with the champion.
        image_shape: channels, height, width.

    Returns:
        The version.

    Raises:
        ValueError: there is no registry, or no run of a step is open.
    """
    client = registry()
    if mlflow.active_run() is None:  # MLflow would put the model into an experiment of its own
        raise ValueError("a model can only be registered inside a step's run")
    measured, _ = load_report(report)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / _CHECKPOINT  # the folder's name is part of where it is stored
        shutil.copytree(checkpoint, staged)
        model_id = _log_model(settings.model_name, staged, measured, image_shape)
        evidence = Path(folder) / "evidence"
        shutil.copytree(report, evidence / _REPORT)
        save_verdict(verdict, evidence / "verdict")
        client.log_model_artifacts(model_id, str(evidence))
    # The run's figures are what the registry's page shows when versions are compared.
    mlflow.log_metrics(measured.figures(), model_id=model_id)
    tags = {
        **facts_of(measured),
        **{HASH + name: text for name, text in hash_report(report).items()},
        "verdict": str(verdict)[:_LONGEST_TAG],
        "policy": settings.to_json(),
        "pipeline_run": os.environ.get(PIPELINE_RUN, ""),
    }
    return _add_version(settings.model_name, model_id, tags)


def facts_of(report: RobustnessReport) -> dict[str, str]:
    """Give what the tags of a version repeat of its report."""
    return {
        "trust": report.trust,
        "clean_accuracy": f"{report.clean_accuracy.value:.4f}",
        "robust_accuracy": f"{report.robust_accuracy.value:.4f}",
        "naive_robust_accuracy": f"{report.naive_robust_accuracy.value:.4f}",
        "norm": report.norm,
        "epsilon": repr(report.epsilon),
        "data": str(report.data["fingerprint"]),
        "checkpoint": str(report.model["checkpoint"]),
    }


def hash_report(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of each file of a report, by the file's name."""
    files = [folder / name for name in (REPORT, SAMPLES, PAGE) if (folder / name).is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def version_uri(name: str, version: str) -> str:
    """Write the address of a model version."""
    return f"models:/{name}/{version}"


def _fetch(model: str, path: str, target: Path) -> Path:
    registry()
    target.mkdir(parents=True, exist_ok=True)
    return Path(mlflow.artifacts.download_artifacts(f"{model}/{path}", dst_path=str(target)))


def _log_model(
    name: str, checkpoint: Path, report: RobustnessReport, image_shape: tuple[int, ...]
) -> str:
    """Store checkpoint and code as a model of MLflow's and give its id."""
    # A uv.lock in the current folder is no part of the model, and names download addresses.
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"
    pixels = TensorSpec(np.dtype(np.float32), (-1, *image_shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, len(report.data["classes"])))
    logged = mlflow.pyfunc.log_model(
        name=name,
        loader_module=_SERVED_BY,
        data_path=str(checkpoint),
        code_paths=[str(_ROOM)],
        pip_requirements=_serving_requirements(),
        signature=ModelSignature(inputs=Schema([pixels]), outputs=Schema([logits])),
        metadata={"classes": list(report.data["classes"])},
    )
    return str(logged.model_id)


def _serving_requirements() -> list[str]:
    """Pin what serving imports; given, because MLflow would load the model to find them out."""
    versions = {name: importlib.metadata.version(name) for name in _SERVING_NEEDS}
    # A local version such as 2.11.0+cpu names a build that only some indexes have.
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _add_version(name: str, model_id: str, tags: dict[str, str]) -> str:
    """Number the version; MLflow gives up after losing a number three times, we do not."""
    for attempt in range(_ATTEMPTS):
        try:
            version = mlflow.register_model(
                f"models:/{model_id}", name, await_registration_for=300, tags=tags
            )
        except MlflowException as error:
            if attempt == _ATTEMPTS - 1 or "Giving up" not in str(error):
                raise
            time.sleep(random.random())
        else:
            return str(version.version)
    raise AssertionError("the last attempt returns or raises")
