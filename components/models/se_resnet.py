"""Squeeze-and-excitation ResNets for large images, read out by ML-Decoder or a dense layer."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from components.models.ml_decoder import MLDecoder
from components.models.resnet import (
    FULL_WIDTHS,
    BasicBlock,
    Block,
    Bottleneck,
    check_widths,
    residual_stages,
)
from components.tensors import Images, Logits

_SHAPES: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class SEResNet(nn.Module):
    """Residual network whose blocks scale their channels, with a strided stem and a pooling.

    Hu et al., 2018, https://arxiv.org/abs/1709.01507, without biases in the scaling. Convolutions
    start from He's normal distribution over what each channel feeds.

    Attributes:
        latent_features: modules whose outputs are the features that vulnerability compares.
        head_layers: what depends on the number of classes.
    """

    latent_features = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        depth: int,
        widths: Sequence[int],
        decoded: bool,
    ) -> None:
        super().__init__()
        block, depths = _SHAPES[depth]
        self.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        stages = residual_stages(block, depths, widths, squeezed=True)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        channels = widths[3] * block.expansion
        if decoded:
            self.head: nn.Module = MLDecoder(num_classes, channels)
            self.head_layers = tuple(f"head.{name}" for name in MLDecoder.head_layers)
        else:
            linear = nn.Linear(channels, num_classes)
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
            self.head_layers = ("head.2",)

    def forward_features(self, images: Images) -> Tensor:
        """Give the last feature map, a thirty-second as high and wide as the images."""
        features = self.pool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(features))))

    def forward(self, images: Images) -> Logits:
        """Give the logits."""
        return self.head(self.forward_features(images))


def se_resnet(
    num_classes: int,
    in_channels: int,
    *,
    depth: Literal[18, 34, 50] = 18,
    head: Literal["ml_decoder", "linear"] = "ml_decoder",
    widths: Sequence[int] = FULL_WIDTHS,
) -> SEResNet:
    """Build SE-ResNet-18, 34 or 50.

    Pei et al., 2022, https://arxiv.org/abs/2205.10617, first phase of the challenge.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        depth: number of layers.
        head: ML-Decoder on the last feature map, or a dense layer on its mean.
        widths: of the blocks of the four stages.

    Raises:
        ValueError: the widths are not four positive numbers.
    """
    check_widths(widths, 4)
    return SEResNet(
        num_classes, in_channels, depth=depth, widths=widths, decoded=head == "ml_decoder"
    )
