"""Images, their bounds, Labels, Targets, Logits with their shapes; Classifier: pixels -> logits."""

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

_ROUNDING = 1e-5  # of a pixel that was computed; far below the 1/255 between two of them


def bounded(pixels: Tensor) -> Tensor:
    """Clamp pixels to [0, 1]; the gradient stops only at those that were outside.

    Of torch's own clamp it may stop at 0 and 1 as well, which hides every black or white pixel.

    Args:
        pixels: of any shape. What is outside by rounding alone counts as inside.
    """
    clamped = pixels.detach().clamp(0, 1)
    outside = (pixels.detach() - clamped).abs() > _ROUNDING
    # Nothing is rounded: what is added is 0, or takes a pixel to its bound.
    return torch.where(outside, clamped, pixels + (clamped - pixels.detach()))


def best_device() -> torch.device:
    """Give the accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
