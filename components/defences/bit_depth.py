"""Bit depth: pixels lose their lowest bits before the model sees them."""

from typing import Literal

import torch
from torch import nn

from components.defences.defended import Defended, honest_view
from components.tensors import Classifier, Images, Logits


class BitDepth(Defended):
    """Keeps so many bits of each pixel; gradients pass straight through.

    Xu et al., 2018, https://arxiv.org/abs/1704.01155. The true derivative is zero almost everywhere
    and would stop naive attackers only. As in the published code of Pei et al., 2022,
    https://arxiv.org/abs/2205.10617, the backward pass is the identity, which is the honest view
    already.

    Args:
        inner: the model behind it.
        bits: from 1 to 8.
        rounding: ``floor`` gives floor(x 2^bits) / 2^bits, the published form, in which pixels of 1
            are a level of their own; ``nearest`` gives the nearest of 2^bits levels from 0 to 1, as
            in Xu et al.

    Raises:
        ValueError: bits are not from 1 to 8.
    """

    def __init__(
        self, inner: nn.Module, *, bits: int = 6, rounding: Literal["floor", "nearest"] = "floor"
    ) -> None:
        super().__init__(inner)
        if not 1 <= bits <= 8:
            raise ValueError(f"bits must be from 1 to 8, got {bits}")
        self.bits, self.rounding = bits, rounding

    def forward(self, images: Images) -> Logits:
        """Classify coarser pixels."""
        return self.inner(self._coarsen(images))

    def honest_view(self, draws: int) -> Classifier:
        """Pass gradients straight through the rounding."""
        inner = honest_view(self.inner, draws=draws)
        return lambda images: inner(self._coarsen(images))

    def _coarsen(self, images: Images) -> Images:
        if self.rounding == "floor":
            coarse = torch.floor(images * 2**self.bits) / 2**self.bits
        else:
            levels = 2**self.bits - 1
            coarse = torch.round(images * levels) / levels
        return StraightThrough.apply(images, coarse)


class StraightThrough(torch.autograd.Function):
    """Gives the second tensor and hands its gradient to the first: Bengio et al., 2013."""

    @staticmethod
    def forward(_ctx: object, _images: Images, changed: Images) -> Images:
        """Give the changed images, to the bit."""
        return changed.view_as(changed)

    @staticmethod
    def backward(_ctx: object, gradient: Images) -> tuple[Images, None]:
        """Pretend that nothing was changed."""
        return gradient, None
