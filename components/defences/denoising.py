"""Non-local denoising of a feature map: each place takes up what resembles it."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

Features: TypeAlias = Tensor
"""Of the shape (batch, channels, height, width)."""

Denoising: TypeAlias = Literal["nonlocal", "projected", "none"]


def non_local(features: Features) -> Features:
    """Give (X X^T) X / N of each map X, of channels by N places, without X itself.

    Li et al., 2020, https://arxiv.org/abs/2005.02552: the dot-product mean of Wang et al., 2018,
    https://arxiv.org/abs/1711.07971, without parameters and softmax. X (X^T X) / N is the same
    number; what costs less is computed. It grows with the cube of the features, so it is taken in
    float32 whatever the precision around it.
    """
    kind = features.device.type
    known = torch.amp.is_autocast_available(kind)  # the meta device is not
    with torch.autocast(kind if known else "cpu", enabled=False):
        flat = features.flatten(2)
        flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
        _, channels, places = flat.shape
        if channels <= places:
            mixed = (flat @ flat.mT / places) @ flat
        else:
            mixed = flat @ (flat.mT @ flat / places)
    return mixed.view_as(features).to(features.dtype)


class Denoise(nn.Module):
    """Adds the non-local mean to a feature map.

    Args:
        channels: of the map.
        kind: ``nonlocal`` adds it as it is, as published; ``projected`` lets a convolution of a
            single pixel choose what is added, as Xie et al., 2019,
            https://arxiv.org/abs/1812.03411, do, starting from nothing.
    """

    def __init__(self, channels: int, kind: Denoising) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if kind == "projected":
            self.project = nn.Conv2d(channels, channels, 1, bias=False)
            nn.init.zeros_(self.project.weight)

    def forward(self, features: Features) -> Features:
        """Denoise features."""
        return features + self.project(non_local(features))
