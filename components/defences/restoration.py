"""Restoration: a small decoder makes an image out of a pyramid of features."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from components.defences.denoising import Features
from components.tensors import Images

Scope: TypeAlias = Literal["front_and_restore", "restore", "enlarge"]
"""What gradients of a restored image reach: trunk and decoder, decoder, or its last layers."""


class Restoration(nn.Module):
    """Adds the levels of a pyramid up from the coarsest, and enlarges the sum to an image.

    FPD_R of Li et al., 2020, https://arxiv.org/abs/2005.02552. There is no activation, and the
    image is unbounded. Differs from the published code, which has stride 4, or 1 for one family:
    there are as many transposed convolutions as the finest level has to be doubled.

    Args:
        channels: of each level, the finest first.
        width: channels of the sum.
        image_channels: of the image.
        doublings: how often the finest level has to be doubled to be as large as the image.
    """

    def __init__(
        self, channels: Sequence[int], *, width: int, image_channels: int, doublings: int
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.top = nn.Conv2d(coarsest, width, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in finer)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        # Two transposed convolutions that keep the size together, where nothing is doubled.
        strides = [(2, 0)] * doublings or [(1, 1), (1, 0)]
        widths = [width, *(max(8, 64 >> 2 * step) for step in range(len(strides)))]
        self.enlarge = nn.Sequential(
            *(
                nn.ConvTranspose2d(before, after, 2, stride=stride, padding=padding)
                for (before, after), (stride, padding) in zip(
                    pairwise(widths), strides, strict=True
                )
            ),
            nn.ConvTranspose2d(widths[-1], image_channels, 1),
        )

    def forward(
        self,
        levels: Sequence[Features],
        size: tuple[int, int],
        *,
        scope: Scope = "front_and_restore",
    ) -> Images:
        """Give an image.

        Args:
            levels: features, the finest first.
            size: height and width of the image; what comes out is stretched where it is another.
            scope: what gradients reach.
        """
        if scope == "restore":
            levels = [level.detach() for level in levels]
        pyramid = self.pyramid(levels)
        restored = self.enlarge(pyramid.detach() if scope == "enlarge" else pyramid)
        return restored if restored.shape[-2:] == size else _resize(restored, size)

    def pyramid(self, levels: Sequence[Features]) -> Features:
        """Give the sum of the levels, as large as the finest."""
        *finer, coarsest = levels
        total = self.top(coarsest)
        for lateral, level in zip(reversed(self.laterals), reversed(finer), strict=True):
            total = _resize(total, level.shape[-2:]) + lateral(level)
        return self.smooth(total)


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
