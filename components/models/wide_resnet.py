"""Wide residual networks for small images, WRN-34-10 and its relatives."""

from torch import nn

from components.models.preact_resnet import PreActResNet


def wide_resnet(
    num_classes: int,
    in_channels: int,
    *,
    depth: int = 34,
    widen_factor: int = 10,
    dropout: float = 0.0,
) -> PreActResNet:
    """Build a wide residual network for images of about 32 x 32 pixels.

    Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146. Convolutions start from He's
    normal distribution over what each channel feeds.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        depth: number of layers, 4 more than a multiple of 6.
        widen_factor: channels of the three stages are 16, 32 and 64 times as many.
        dropout: between the convolutions of each block, in [0, 1).

    Raises:
        ValueError: there is no such depth, or an option is out of range.
    """
    if depth < 10 or depth % 6 != 4:
        raise ValueError(f"depth must be 10, 16, 22, 28, 34 and so on, got {depth}")
    if widen_factor < 1:
        raise ValueError(f"widen_factor must be at least 1, got {widen_factor}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    network = PreActResNet(
        num_classes,
        in_channels,
        stem_width=16,
        widths=[channels * widen_factor for channels in (16, 32, 64)],
        depth=(depth - 4) // 6,
        dropout=dropout,
        final_norm=True,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(network.linear.bias)
    return network
