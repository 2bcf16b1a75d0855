"""Names of what manifests/ puts into the cluster, for the pipelines and steps that use it."""

import os
from pathlib import Path

from components.tracking import PIPELINE_RUN

NAMESPACE = "bartizan"
SERVICE_ACCOUNT = "bartizan-pipelines"
"""What the pods of a run may do: little more than make TrainJobs."""

STATE_CLAIM = "bartizan-state"
"""The volume claim on which a step that lost its node finds its state again."""

STATE_FOLDER = "/state"
"""Where pods see that volume."""

TRAINING_RUNTIME = "bartizan-torch"
"""What Kubeflow Trainer makes a TrainJob's pods from."""

TRAINING_PRIORITY = "bartizan-training"
"""Priority class of the pods of that runtime."""

CONFIG_MAPS: dict[str, tuple[str, ...]] = {
    "bartizan-tracking": (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
    ),
}
"""ConfigMaps whose keys every step finds in its environment, under the same names."""

SECRETS: dict[str, tuple[str, ...]] = {
    "bartizan-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "bartizan-mlflow": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
"""Secrets of which the same holds."""

STATE = "BARTIZAN_STATE"
"""Environment variable with the folder for what lets a step go on after it lost its node."""

POD_NAME, POD_UID, POD_NAMESPACE = "POD_NAME", "POD_UID", "POD_NAMESPACE"
"""Environment variables in which a pod that makes others finds itself."""


def state_folder(step: str) -> Path | None:
    """Give the folder in which a step of this pipeline run finds its state again, if there is one.

    A pod that is started again in another's place belongs to the same run, and so finds the same
    folder.
    """
    root, run = os.environ.get(STATE), os.environ.get(PIPELINE_RUN)
    return Path(root, run, step) if root and run else None
