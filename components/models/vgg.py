"""VGG16 with BatchNorm for images of 32 x 32 pixels, with widths that pruning may narrow."""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from components.models.gating import PlacedLayer
from components.models.units import Cut, Place, Units, Whole
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
        latent_features: modules whose outputs are the features that vulnerability compares.
        head_layers: what depends on the number of classes.
    """

    latent_features: ClassVar[tuple[str, ...]] = ("relu", "dense14")
    head_layers: ClassVar[tuple[str, ...]] = ("dense15",)

    def __init__(self, num_classes: int, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
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

    @property
    def widths(self) -> tuple[int, ...]:
        """Give what a network of this shape is built with."""
        channels = [self.get_parameter(f"{name}.bias").numel() for name in _CONVOLUTIONS]
        return *channels, self.dense14.in_features, self.dense14.out_features

    def declare_units(self) -> tuple[Units, ...]:
        """Say where the published gates are: before BatchNorm and before the dense layers.

        The channels of the last convolution have two gates, one on it and one before dense14.
        """
        found = []
        layers = (*_CONVOLUTIONS, "dense14", "dense15")
        for number, (name, width) in enumerate(zip(_CONVOLUTIONS, self.widths, strict=False), 1):
            cuts = _cuts_around(name, f"bn{number}", layers[number])
            found.append(Units(name, width, (Place(name, "output"),), cuts, norm=f"bn{number}"))
        before14 = (Place("dense14", "input"),)
        found.append(Units("dense14", self.widths[13], before14, (), whole=Whole("conv13")))
        cuts = _cuts_around("dense14", "bn14", "dense15")
        found.append(Units("dense15", self.widths[14], (Place("dense15", "input"),), cuts))
        return tuple(found)

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
        # A gate is noise enough: where there is one, it takes the place of the dropout.
        gated = isinstance(self.dense14, PlacedLayer)
        drop = nn.Identity() if gated else self.dropout
        features = self.dense14(drop(features.flatten(1)))
        return self.dense15(drop(self.relu(self.bn14(features))))


def vgg16(
    num_classes: int,
    in_channels: int,
    *,
    widths: Sequence[int] = FULL_WIDTHS,
    image_size: tuple[int, ...] | None = None,
) -> VGG16:
    """Build VGG16, full or with the widths that pruning left.

    Weights and biases start from Glorot's uniform distribution, as in the published code.

    Raises:
        ValueError: the widths are not fifteen positive numbers that fit together, or the images
            are not 32 x 32.
    """
    if len(widths) != 15 or min(widths) < 1 or widths[12] != widths[13]:
        raise ValueError(
            "widths must be fifteen positive numbers, the thirteenth and fourteenth alike, "
            f"got {list(widths)}"
        )
    if image_size is not None and tuple(image_size) != (32, 32):
        raise ValueError(f"vgg16 takes images of 32 x 32 pixels, got {image_size}")
    network = VGG16(num_classes, in_channels, tuple(widths))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert module.bias is not None
            nn.init.xavier_uniform_(module.weight)
            bound = math.sqrt(3 / len(module.bias))  # a bias has as many outputs as inputs
            nn.init.uniform_(module.bias, -bound, bound)
    return network


def _cuts_around(layer: str, norm: str, reader: str) -> tuple[Cut, ...]:
    """Say what belongs to the units that a layer gives, a norm scales and another layer reads."""
    values = ("weight", "bias", "running_mean", "running_var")
    own = (f"{layer}.weight", f"{layer}.bias", *(f"{norm}.{value}" for value in values))
    return *(Cut(tensor, 0) for tensor in own), Cut(f"{reader}.weight", 1)


def _batch_norm(
    kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], width: int
) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """Give a BatchNorm with the published constants, those of an earlier framework."""
    return kind(width, eps=1e-3, momentum=0.01)
