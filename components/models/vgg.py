"""VGG16 with BatchNorm for images of 32 x 32 pixels, with widths that pruning may narrow."""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from components.tensors import Images, Logits

FULL_WIDTHS = (64, 64, 128, 128, 256, 256, 256, *[512] * 8)
_POOL = None
# What follows each convolution's ReLU: a share that is dropped, or a pooling.
_AFTER = (0.3, _POOL, 0.4, _POOL, 0.4, 0.4, _POOL, 0.4, 0.4, _POOL, 0.4, 0.4, _POOL)
_CONVOLUTIONS = tuple(f"conv{number}" for number in range(1, 14))


class VGG16(nn.Module):
    """Thirteen convolutions and two dense layers, 32 x 32 pixels in.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355, whose network for CIFAR this is.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        widths: channels of the thirteen convolutions, those of the last that dense14 reads, which
            is all of them, and units of dense14.

    Attributes:
        gate_points: layers whose units pruning may gate, and the side the gate is on, in the order
            of the widths.
        latent_features: modules whose outputs are the features that vulnerability compares.
        head_layers: what depends on the number of classes.
    """

    gate_points: ClassVar[tuple[tuple[str, str], ...]] = (
        *((name, "output") for name in _CONVOLUTIONS),
        ("dense14", "input"),
        ("dense15", "input"),
    )
    latent_features: ClassVar[tuple[str, ...]] = ("relu", "dense14")
    head_layers: ClassVar[tuple[str, ...]] = ("dense15",)

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths
        channels = (in_channels, *widths[:13])
        for number, name in enumerate(_CONVOLUTIONS, 1):
            before, width = channels[number - 1 : number + 1]
            self.add_module(name, nn.Conv2d(before, width, 3, padding=1))
            self.add_module(f"bn{number}", _batch_norm(nn.BatchNorm2d, width))
        self.after = nn.ModuleList(
            nn.MaxPool2d(2) if share is _POOL else nn.Dropout(share) for share in _AFTER
        )
        self.dropout = nn.Dropout(0.5)
        self.dense14 = nn.Linear(widths[13], widths[14])
        self.bn14 = _batch_norm(nn.BatchNorm1d, widths[14])
        self.dense15 = nn.Linear(widths[14], num_classes)
        self.relu = nn.ReLU()

    def forward(self, images: Images) -> Logits:
        """Give the logits.

        Raises:
            ValueError: the images are not 32 x 32.
        """
        if images.shape[-2:] != (32, 32):
            raise ValueError(f"vgg16 takes images of 32 x 32 pixels, got {tuple(images.shape)}")
        features = images
        for number, (name, after) in enumerate(zip(_CONVOLUTIONS, self.after, strict=True), 1):
            convolved = self.get_submodule(name)(features)
            features = after(self.relu(self.get_submodule(f"bn{number}")(convolved)))
        features = self.dense14(self.dropout(features.flatten(1)))
        return self.dense15(self.dropout(self.relu(self.bn14(features))))


def vgg16(num_classes: int, in_channels: int, *, widths: Sequence[int] = FULL_WIDTHS) -> VGG16:
    """Build VGG16, full or with the widths that pruning left.

    Weights and biases start from Glorot's uniform distribution, as in the published code.

    Raises:
        ValueError: the widths are not fifteen positive numbers that fit together.
    """
    if len(widths) != 15 or min(widths) < 1 or widths[12] != widths[13]:
        raise ValueError(
            "widths must be fifteen positive numbers, the thirteenth and fourteenth alike, "
            f"got {list(widths)}"
        )
    network = VGG16(num_classes, in_channels, tuple(widths))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert module.bias is not None
            nn.init.xavier_uniform_(module.weight)
            bound = math.sqrt(3 / len(module.bias))  # a bias has as many outputs as inputs
            nn.init.uniform_(module.bias, -bound, bound)
    return network


def _batch_norm(
    kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], width: int
) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """Give a BatchNorm with the published constants, those of an earlier framework."""
    return kind(width, eps=1e-3, momentum=0.01)
