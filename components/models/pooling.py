"""Pooling as fast as few channels allow."""

import torch
from torch import Tensor, nn


class MaxPool(nn.MaxPool2d):
    """The largest of each 2 x 2 pixels; height and width must be even.

    Torch takes channels in groups as wide as the processor's vectors, and those that fill no group
    one by one, which is what pruning leaves many networks with. Where no gradient is wanted, the
    largest of two rows, whose pixels lie side by side, and then of two columns is up to four times
    as fast, and remembers no positions. Compilers and ONNX get the layer that they know.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, features: Tensor) -> Tensor:
        """Give the largest, channels and positions as they were."""
        elsewhere = torch.compiler.is_compiling() or not features.is_cpu
        if torch.is_grad_enabled() or elsewhere:
            return super().forward(features)
        rows = torch.maximum(features[..., 0::2, :], features[..., 1::2, :])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])
