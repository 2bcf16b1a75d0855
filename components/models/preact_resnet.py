"""Residual networks that normalise before each convolution, for small images."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from components.models.resnet import FULL_WIDTHS, check_widths, convolution
from components.tensors import Images, Logits


class PreActBlock(nn.Module):
    """Two convolutions, each after BatchNorm and ReLU, beside a shortcut.

    Where the shape changes, the shortcut is a convolution of what the first ReLU gives.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.relu = nn.ReLU()
        self.reshapes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Sequential()
        if self.reshapes:
            self.shortcut.append(convolution(in_channels, out_channels, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        """Give features whose height and width are divided by the stride."""
        active = self.relu(self.bn1(features))
        shortcut = self.shortcut(active) if self.reshapes else features
        inner = self.dropout(self.relu(self.bn2(self.conv1(active))))
        return self.conv2(inner) + shortcut


class PreActResNet(nn.Module):
    """Residual network of pre-activation blocks whose first convolution keeps the images' size.

    He et al., 2016, https://arxiv.org/abs/1603.05027.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        stem_width: channels of the first convolution.
        widths: channels of each stage.
        depth: number of blocks in each stage.
        dropout: between the convolutions of each block.
        final_norm: whether BatchNorm and ReLU follow the last block.

    Attributes:
        latent_features: modules whose outputs are the features that vulnerability compares.
        head_layers: what depends on the number of classes.
    """

    head_layers: ClassVar[tuple[str, ...]] = ("linear",)

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        stem_width: int,
        widths: Sequence[int],
        depth: int,
        dropout: float,
        final_norm: bool,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, stem_width, 3)
        self.latent_features = tuple(f"layer{number}" for number in range(1, len(widths) + 1))
        for name, (before, width) in zip(
            self.latent_features, pairwise((stem_width, *widths)), strict=True
        ):
            first = PreActBlock(before, width, 1 if name == "layer1" else 2, dropout=dropout)
            others = (PreActBlock(width, width, 1, dropout=dropout) for _ in range(depth - 1))
            self.add_module(name, nn.Sequential(first, *others))
        self.bn = nn.BatchNorm2d(widths[-1]) if final_norm else nn.Identity()
        self.relu = nn.ReLU() if final_norm else nn.Identity()
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward_features(self, images: Images) -> Tensor:
        """Give the last feature map, after the final BatchNorm and ReLU where there are any."""
        features = self.conv1(images)
        for name in self.latent_features:
            features = self.get_submodule(name)(features)
        return self.relu(self.bn(features))

    def forward(self, images: Images) -> Logits:
        """Give the logits."""
        return self.linear(self.forward_features(images).mean((2, 3)))


def preact_resnet18(
    num_classes: int,
    in_channels: int,
    *,
    widths: Sequence[int] = FULL_WIDTHS,
    final_norm: bool = False,
) -> PreActResNet:
    """Build PreActResNet-18 for images of about 32 x 32 pixels.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        widths: channels of the four stages.
        final_norm: let BatchNorm and ReLU follow the last block, as in He et al. and in the code
            of Rice et al., 2020, https://arxiv.org/abs/2002.11569; common code has neither.

    Raises:
        ValueError: the widths are not four positive numbers.
    """
    check_widths(widths, 4)
    return PreActResNet(
        num_classes,
        in_channels,
        stem_width=widths[0],
        widths=widths,
        depth=2,
        dropout=0.0,
        final_norm=final_norm,
    )
