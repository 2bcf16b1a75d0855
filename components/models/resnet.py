"""Residual networks for small images, and the blocks that all residual networks are made of."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, TypeAlias

from torch import Tensor, nn

from components.tensors import Images, Logits

FULL_WIDTHS = (64, 128, 256, 512)


class SqueezeExcitation(nn.Module):
    """Scales each channel by what the means of all channels say.

    Hu et al., 2018, https://arxiv.org/abs/1709.01507, without biases.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // 16)
        self.squeeze = nn.Linear(channels, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, channels, bias=False)
        self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """Scale features of the shape (batch, channels, height, width)."""
        scale = self.sigmoid(self.excite(self.relu(self.squeeze(features.mean((2, 3))))))
        return features * scale[:, :, None, None]


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        in_channels: channels of the input.
        width: channels of both convolutions.
        stride: of the first convolution and of the shortcut.
        squeezed: whether squeeze-and-excitation scales the sum's second term.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, *, squeezed: bool) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.scale = SqueezeExcitation(width) if squeezed else nn.Identity()
        self.shortcut = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Give features whose height and width are divided by the stride."""
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.scale(self.bn2(self.conv2(inner)))
        return self.relu(inner + self.shortcut(features))


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut, the wide ones of a single pixel.

    Args:
        in_channels: channels of the input.
        width: channels of the first two convolutions; the third has four times as many.
        stride: of the second convolution and of the shortcut.
        squeezed: whether squeeze-and-excitation scales the sum's second term.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, *, squeezed: bool) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.scale = SqueezeExcitation(out_channels) if squeezed else nn.Identity()
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Give features whose height and width are divided by the stride."""
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        inner = self.scale(self.bn3(self.conv3(inner)))
        return self.relu(inner + self.shortcut(features))


Block: TypeAlias = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Residual network whose first convolution keeps the size of the images.

    He et al., 2016, https://arxiv.org/abs/1512.03385, as it is used on images of 32 x 32 pixels:
    3 x 3 pixels and no stride first, no pooling after it. Differs from common code for it: the
    last pooling averages whatever size is left.

    Attributes:
        latent_features: modules whose outputs are the features that vulnerability compares.
        head_layers: what depends on the number of classes.
    """

    latent_features: ClassVar[tuple[str, ...]] = ("layer1", "layer2", "layer3", "layer4")
    head_layers: ClassVar[tuple[str, ...]] = ("linear",)

    def __init__(
        self, num_classes: int, in_channels: int, *, depths: Sequence[int], widths: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages = residual_stages(BasicBlock, depths, widths, squeezed=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(widths[3], num_classes)

    def forward_features(self, images: Images) -> Tensor:
        """Give the last feature map, an eighth as high and wide as the images."""
        features = self.layer1(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(features)))

    def forward(self, images: Images) -> Logits:
        """Give the logits."""
        return self.linear(self.forward_features(images).mean((2, 3)))


def resnet18(num_classes: int, in_channels: int, *, widths: Sequence[int] = FULL_WIDTHS) -> ResNet:
    """Build ResNet-18 for images of about 32 x 32 pixels.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        widths: channels of the four stages.

    Raises:
        ValueError: the widths are not four positive numbers.
    """
    check_widths(widths, 4)
    return ResNet(num_classes, in_channels, depths=(2, 2, 2, 2), widths=widths)


def residual_stages(
    block: Block, depths: Sequence[int], widths: Sequence[int], *, squeezed: bool
) -> list[nn.Sequential]:
    """Build stages of blocks, each stage after the first half as high and wide as the one before.

    Args:
        block: what the stages are made of.
        depths: number of blocks in each stage.
        widths: of the blocks of each stage; the first is the number of channels that come in.
        squeezed: whether squeeze-and-excitation scales the blocks' outputs.
    """
    incoming = [widths[0], *(width * block.expansion for width in widths)]
    stages = []
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        channels = [incoming[stage]] + [width * block.expansion] * depth
        strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
        stages.append(
            nn.Sequential(
                *(
                    block(before, width, stride, squeezed=squeezed)
                    for (before, _), stride in zip(pairwise(channels), strides, strict=True)
                )
            )
        )
    return stages


def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Give a convolution without bias that keeps height and width, but for its stride."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


def check_widths(widths: Sequence[int], count: int) -> None:
    """Refuse widths that are not so many positive numbers."""
    if len(widths) != count or min(widths) < 1:
        raise ValueError(f"widths must be {count} positive numbers, got {list(widths)}")


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Pass the input on, through a convolution where its shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(
        convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
    )
