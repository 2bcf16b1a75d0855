"""Images, Labels, Targets, Logits with their shapes; Classifier: pixels -> logits."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch channels height width"]
"""Pixels in [0, 1], float32; perturbations and gradients of images have the same shape."""

Labels: TypeAlias = Int[Tensor, "batch"]
Targets: TypeAlias = Float[Tensor, "batch classes"]
Logits: TypeAlias = Float[Tensor, "batch classes"]
PerSample: TypeAlias = Float[Tensor, "batch"]

Classifier: TypeAlias = Callable[[Images], Logits]
"""Any callable from pixels to logits; attacks and objectives ask for nothing more."""


def best_device() -> torch.device:
    """Give the accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
