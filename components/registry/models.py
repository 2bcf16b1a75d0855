"""MLflow model versions and aliases: the champion, and who comes after it."""

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient, MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from components.evaluation.report import RobustnessReport, load_report
from components.registry.compare import compare
from components.registry.config import PromotionConfig
from components.registry.verdict import Verdict, save_verdict
from components.tracking import URI

CHAMPION, CHALLENGER = "champion", "challenger"

_ROOM = Path(__file__).parent.parent
_CHECKPOINT, _REPORT = "checkpoint", "report"
_SERVED_BY = "components.models.serving"
_SERVING_NEEDS = ("jaxtyping", "numpy", "safetensors", "timm", "torch")


class StaleVerdict(ValueError):
    """A verdict about a champion that is champion no longer."""


def find_champion(name: str) -> str | None:
    """Give the version of a registered model that is its champion.

    Raises:
        ValueError: there is no registry.
    """
    try:
        aliases = _client().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    # A local store gives a number where a server gives text.
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


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


def judge(settings: PromotionConfig, report: Path) -> Verdict:
    """Compare a report with that of the registry's champion.

    Args:
        settings: which registered model, and the rules.
        report: folder of the challenger's report.
    """
    challenger, version = load_report(report), find_champion(settings.model_name)
    if version is None:
        return compare(challenger, None, settings)
    with tempfile.TemporaryDirectory() as folder:
        champion = load_report(
            fetch_report(version_uri(settings.model_name, version), Path(folder))
        )
    return compare(challenger, champion, settings, champion_version=version)


def register(
    name: str, *, checkpoint: Path, report: Path, verdict: Verdict, image_shape: tuple[int, ...]
) -> str:
    """Add a version to a registered model, with everything that was found out about it.

    The version holds the checkpoint, the code that rebuilds the model from it, the report and the
    verdict. It loads without this project being installed, and nothing in it is pickled.

    Args:
        name: of the registered model.
        checkpoint: folder of the model.
        report: folder of its evaluation.
        verdict: of comparing it with the champion.
        image_shape: channels, height, width.

    Returns:
        The version.

    Raises:
        ValueError: there is no registry, or no run of a step is open.
    """
    client = _client()
    if mlflow.active_run() is None:  # MLflow would put the model into an experiment of its own
        raise ValueError("a model can only be registered inside a step's run")
    measured, _ = load_report(report)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / _CHECKPOINT  # the folder's name is part of where it is stored
        shutil.copytree(checkpoint, staged)
        model_id = _log_model(name, staged, measured, image_shape)
        evidence = Path(folder) / "evidence"
        shutil.copytree(report, evidence / _REPORT)
        save_verdict(verdict, evidence / "verdict")
        client.log_model_artifacts(model_id, str(evidence))
    # The run's figures are what the registry's page shows when versions are compared.
    mlflow.log_metrics(measured.figures(), model_id=model_id)
    version = mlflow.register_model(
        f"models:/{model_id}",
        name,
        await_registration_for=300,
        tags=_tags(measured, verdict),
    )
    return str(version.version)


def set_alias(name: str, version: str, verdict: Verdict) -> None:
    """Make a version the champion if the verdict says so, else the challenger.

    Raises:
        StaleVerdict: another version became champion since the comparison.
    """
    client = _client()
    if not verdict.promoted:
        client.set_registered_model_alias(name, CHALLENGER, version)
        return
    champion = find_champion(name) or ""
    if champion != verdict.champion_version:
        client.set_registered_model_alias(name, CHALLENGER, version)
        raise StaleVerdict(
            f"{name} {version} was compared with champion {verdict.champion_version or 'none'}, "
            f"but by now the champion is {champion or 'none'}; compare again"
        )
    client.set_registered_model_alias(name, CHAMPION, version)


def version_uri(name: str, version: str) -> str:
    """Write the address of a model version."""
    return f"models:/{name}/{version}"


def _client() -> MlflowClient:
    # Without an address MLflow would quietly make a store in the current folder.
    if not os.environ.get(URI):
        raise ValueError(f"{URI} must be set: it is where the model registry is")
    return MlflowClient()


def _fetch(model: str, path: str, target: Path) -> Path:
    _client()
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


def _tags(report: RobustnessReport, verdict: Verdict) -> dict[str, str]:
    return {
        "trust": report.trust,
        "clean_accuracy": f"{report.clean_accuracy.value:.4f}",
        "robust_accuracy": f"{report.robust_accuracy.value:.4f}",
        "naive_robust_accuracy": f"{report.naive_robust_accuracy.value:.4f}",
        "norm": report.norm,
        "epsilon": repr(report.epsilon),
        "data": str(report.data["fingerprint"]),
        "checkpoint": str(report.model["checkpoint"]),
        "verdict": str(verdict),
        "pipeline_run": os.environ.get("KFP_RUN_ID", ""),
    }
