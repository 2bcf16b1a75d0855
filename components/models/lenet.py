"""LeNet-5 as Caffe ships it, with widths that pruning may narrow."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from components.models.pooling import MaxPool
from components.models.units import Cut, Place, Units, Whole
from components.tensors import Images, Logits

FULL_WIDTHS = (20, 50, 800, 500)
POSITIONS = 16
"""Each channel of conv2 is flattened to 4 x 4 positions."""


class LeNet5(nn.Module):
    """Two convolutions, two dense layers, 28 x 28 pixels in.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355, whose network for MNIST this is.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        widths: channels of conv1 and conv2, positions of the flattened conv2 that dense3 reads,
            units of dense3. The third is at most 16 times the second; where it is less, the buffer
            `positions` says which ones are read.

    Attributes:
        latent_features: modules whose outputs are the features that vulnerability compares.
        head_layers: what depends on the number of classes.
    """

    latent_features: ClassVar[tuple[str, ...]] = ("relu",)
    head_layers: ClassVar[tuple[str, ...]] = ("dense4",)

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        conv1, conv2, flat, dense = widths
        self.conv1 = nn.Conv2d(in_channels, conv1, 5)
        self.conv2 = nn.Conv2d(conv1, conv2, 5)
        self.pool = MaxPool()
        self.register_buffer("positions", torch.arange(flat))
        self.positions: Tensor
        self.dense3 = nn.Linear(flat, dense)
        self.dense4 = nn.Linear(dense, num_classes)
        self.relu = nn.ReLU()

    @property
    def widths(self) -> tuple[int, ...]:
        """Give what a network of this shape is built with."""
        conv1, conv2 = self.conv1.out_channels, self.conv2.out_channels
        return conv1, conv2, self.dense3.in_features, self.dense3.out_features

    def declare_units(self) -> tuple[Units, ...]:
        """Say where the published gates are: on the convolutions and before the dense layers."""
        conv1, conv2, flat, dense = self.widths
        return (
            Units(
                "conv1",
                conv1,
                (Place("conv1", "output"),),
                (Cut("conv1.weight", 0), Cut("conv1.bias", 0), Cut("conv2.weight", 1)),
            ),
            Units(
                "conv2",
                conv2,
                (Place("conv2", "output"),),
                (Cut("conv2.weight", 0), Cut("conv2.bias", 0)),
            ),
            Units(
                "dense3",
                flat,
                (Place("dense3", "input"),),
                (Cut("dense3.weight", 1),),
                whole=Whole("conv2", POSITIONS, "positions"),
            ),
            Units(
                "dense4",
                dense,
                (Place("dense4", "input"),),
                (Cut("dense3.weight", 0), Cut("dense3.bias", 0), Cut("dense4.weight", 1)),
            ),
        )

    def forward(self, images: Images) -> Logits:
        """Give the logits.

        Raises:
            ValueError: the images are not 28 x 28.
        """
        if images.shape[-2:] != (28, 28):
            raise ValueError(f"lenet5 takes images of 28 x 28 pixels, got {tuple(images.shape)}")
        features = self.pool(self.relu(self.conv1(images)))
        features = self.pool(self.relu(self.conv2(features))).flatten(1)
        if len(self.positions) < features.shape[1]:
            features = features.index_select(1, self.positions)
        return self.dense4(self.relu(self.dense3(features)))


def lenet5(
    num_classes: int,
    in_channels: int,
    *,
    widths: Sequence[int] = FULL_WIDTHS,
    image_size: tuple[int, ...] | None = None,
) -> LeNet5:
    """Build LeNet-5, full or with the widths that pruning left.

    Weights start from Glorot's uniform distribution, as in the published code; biases from zero.

    Raises:
        ValueError: the widths are not four positive numbers that fit together, or the images
            are not 28 x 28.
    """
    if len(widths) != 4 or min(widths) < 1 or widths[2] > widths[1] * POSITIONS:
        raise ValueError(
            "widths must be four positive numbers, the third at most 16 times the second, "
            f"got {tuple(widths)}"
        )
    if image_size is not None and tuple(image_size) != (28, 28):
        raise ValueError(f"lenet5 takes images of 28 x 28 pixels, got {image_size}")
    network = LeNet5(num_classes, in_channels, tuple(widths))
    for name, parameter in network.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return network
