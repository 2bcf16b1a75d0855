"""Smoothing: a small filter takes the finest detail from the images."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.defences.bit_depth import StraightThrough
from components.defences.defended import Defended, honest_view
from components.tensors import Classifier, Images, Logits, bounded

_PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}


class Smoothing(Defended):
    """Filters each channel by itself, then clamps to [0, 1].

    Xu et al., 2018, https://arxiv.org/abs/1704.01155; mean and Gaussian filter with zero padding as
    in the published code of Pei et al., 2022, https://arxiv.org/abs/2205.10617. It is
    differentiable, so the honest view is the filter with its true gradient.

    Args:
        inner: the model behind it.
        filter: what a pixel becomes of those around it.
        size: pixels along each side of the filter, odd.
        passes: times the filter is applied.
        sigma: standard deviation of the Gaussian filter, in pixels.
        published_sigma: give the Gaussian filter the weights of the published code, which are
            exp(-distance^2) whatever sigma is: there 2 sigma^2 divides outside the exponential
            and cancels.
        padding: what lies beyond the edges.
        backward: ``identity`` hands gradients on as if nothing was filtered, as the published code
            does; the honest view never does.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        inner: nn.Module,
        *,
        filter: Literal["mean", "gaussian", "median"] = "mean",
        size: int = 3,
        passes: int = 1,
        sigma: float = 1.0,
        published_sigma: bool = False,
        padding: Literal["zeros", "reflect", "replicate"] = "zeros",
        backward: Literal["true", "identity"] = "true",
    ) -> None:
        super().__init__(inner)
        if size < 3 or size % 2 == 0:
            raise ValueError(f"size must be odd and at least 3, got {size}")
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}")
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be finite and above 0, got {sigma}")
        if filter != "gaussian" and (published_sigma or sigma != 1):
            raise ValueError(f"a {filter} filter has no sigma; leave sigma and published_sigma out")
        self.filter, self.size, self.passes = filter, size, passes
        self.padding, self.backward_rule = _PADDING[padding], backward
        kernel = _kernel(filter, size, math.sqrt(0.5) if published_sigma else sigma)
        self.register_buffer("kernel", kernel, persistent=False)
        self.kernel: Tensor

    def forward(self, images: Images) -> Logits:
        """Classify filtered images."""
        smooth = self._smooth(images)
        if self.backward_rule == "identity":
            smooth = StraightThrough.apply(images, smooth.detach())
        return self.inner(smooth)

    def honest_view(self, draws: int) -> Classifier:
        """Show the true gradient of the filter."""
        inner = honest_view(self.inner, draws=draws)
        return lambda images: inner(self._smooth(images))

    def _smooth(self, images: Images) -> Images:
        for _ in range(self.passes):
            images = self._filter(images)
        # Its weights are not negative and sum to 1, so that pixels of [0, 1] leave it by rounding
        # alone, which must not stop the gradient of white ones.
        return bounded(images)

    def _filter(self, images: Images) -> Images:
        batch, channels, height, width = images.shape
        padded = functional.pad(images, [self.size // 2] * 4, mode=self.padding)
        if self.filter == "median":
            patches = functional.unfold(padded, self.size).view(batch, channels, self.size**2, -1)
            return patches.median(2).values.view(batch, channels, height, width)
        kernel = self.kernel.to(images.dtype).expand(channels, 1, -1, -1)
        return functional.conv2d(padded, kernel, groups=channels)


def _kernel(filter: str, size: int, sigma: float) -> Tensor:
    """Give the weights of a filter, which sum to 1, of the shape (1, 1, size, size)."""
    if filter != "gaussian":
        return torch.full((1, 1, size, size), 1 / size**2)
    distance = torch.arange(size) - size // 2
    line = torch.exp(-distance.double().square() / (2 * sigma**2))
    square = line[:, None] * line
    return (square / square.sum()).float().view(1, 1, size, size)
