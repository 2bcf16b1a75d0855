"""A checkpoint as MLflow serves it: arrays of pixels to arrays of logits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.models.build import Model
from components.models.checkpoint import load_checkpoint
from components.tensors import best_device

_BATCH_SIZE = 256


class ServedModel:
    """A classifier behind MLflow's ``predict``."""

    def __init__(self, model: Model) -> None:
        self.model = model.to(best_device()).eval()

    def predict(
        self,
        images: NDArray[np.float32],
        params: dict[str, Any] | None = None,  # noqa: ARG002  MLflow passes it
    ) -> NDArray[np.float32]:
        """Give the logits of images of pixels in [0, 1], batch first, channels second."""
        batches = torch.from_numpy(images).split(_BATCH_SIZE)
        with torch.no_grad():
            logits = [self.model(batch.to(best_device())).cpu() for batch in batches]
        return torch.cat(logits).numpy()


def _load_pyfunc(data_path: str) -> ServedModel:
    """Load what MLflow stored; the name is MLflow's."""
    return ServedModel(load_checkpoint(Path(data_path)))
