"""ConvNeXt-tiny read out by dense layers or ML-Decoder, without its last normalisation."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from components.models.ml_decoder import MLDecoder
from components.models.timm_models import load_timm
from components.tensors import Images, Logits

FULL_DEPTHS, FULL_WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)
_STRIDE = 32
_HIDDEN, _DROPOUT = (512, 256), 0.2
_STOCHASTIC_DEPTH = 0.1


class ConvNeXt(nn.Module):
    """timm's network up to its last feature map, and a head of one's own.

    Attributes:
        head_layers: what depends on the number of classes.
        pretrained_cfg: what timm knows about the weights the network starts from, None if it
            starts from fresh ones.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, head_layers: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk, self.head, self.head_layers = trunk, head, head_layers
        self.pretrained_cfg: object = None

    def adapt_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Give the weights of timm's network for the trunk, and the head's own.

        Args:
            state: tensors by name, of a file.

        Returns:
            Tensors by this network's names and in its shapes; None if they are not timm's.
        """
        adapt: Any = self.trunk.adapt_weights
        adapted = adapt(state)
        if adapted is None:
            return None
        self.pretrained_cfg = self.trunk.pretrained_cfg
        trunk = {name: value for name, value in adapted.items() if not name.startswith("head.")}
        parts = {"trunk": trunk, "head": self.head.state_dict()}
        return {f"{part}.{name}": parts[part][name] for part in parts for name in parts[part]}

    def forward_features(self, images: Images) -> Tensor:
        """Give the last feature map, a thirty-second as high and wide as the images.

        Raises:
            ValueError: the images are smaller than 32 x 32.
        """
        if min(images.shape[-2:]) < _STRIDE:
            raise ValueError(
                f"convnext_tiny takes images of at least 32 x 32 pixels, got {tuple(images.shape)}"
            )
        return self.trunk(images)

    def forward(self, images: Images) -> Logits:
        """Give the logits."""
        return self.head(self.forward_features(images))


def convnext_tiny(
    num_classes: int,
    in_channels: int,
    *,
    head: Literal["mlp", "ml_decoder"] = "mlp",
    pretrained: bool = False,
    depths: Sequence[int] = FULL_DEPTHS,
    widths: Sequence[int] = FULL_WIDTHS,
    image_size: tuple[int, ...] | None = None,
) -> ConvNeXt:
    """Build ConvNeXt-tiny with a head of Pei et al., 2022, https://arxiv.org/abs/2205.10617.

    Liu et al., 2022, https://arxiv.org/abs/2201.03545, with stochastic depth 0.1; the LayerNorm
    before its classifier is left out.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        head: dense layers of 512 and 256 units on the mean of the last feature map, or ML-Decoder
            on the map.
        pretrained: start the trunk from timm's weights, which are downloaded.
        depths: number of blocks in each stage.
        widths: channels of each stage.
        image_size: height and width of the images; None is any.

    Raises:
        ValueError: depths or widths are not four positive numbers, or other than timm's although
            its weights are wanted, or these cannot be had, or the images are smaller than 32 x 32.
    """
    for name, numbers in (("depths", depths), ("widths", widths)):
        if len(numbers) != 4 or min(numbers) < 1:
            raise ValueError(f"{name} must be 4 positive numbers, got {list(numbers)}")
    if pretrained and (tuple(depths), tuple(widths)) != (FULL_DEPTHS, FULL_WIDTHS):
        raise ValueError("pretrained weights fit no other depths and widths than those by default")
    if image_size is not None and min(image_size) < _STRIDE:
        raise ValueError(f"convnext_tiny takes images of at least 32 x 32 pixels, got {image_size}")
    trunk = load_timm(
        "convnext_tiny",
        pretrained=pretrained,
        num_classes=0,
        in_chans=in_channels,
        drop_path_rate=_STOCHASTIC_DEPTH,
        depths=tuple(depths),
        dims=tuple(widths),
    )
    trunk.head = nn.Identity()
    if head == "mlp":
        network = ConvNeXt(trunk, _mlp(num_classes, widths[3]), ("head.classify",))
    else:
        names = tuple(f"head.{name}" for name in MLDecoder.head_layers)
        network = ConvNeXt(trunk, MLDecoder(num_classes, widths[3]), names)
    if pretrained:
        network.pretrained_cfg = trunk.pretrained_cfg
    return network


def _mlp(num_classes: int, in_channels: int) -> nn.Sequential:
    head = nn.Sequential()
    head.add_module("pool", nn.AdaptiveAvgPool2d(1))
    head.add_module("flatten", nn.Flatten())
    for number, (before, width) in enumerate(
        zip((in_channels, *_HIDDEN), _HIDDEN, strict=False), 1
    ):
        layers = (nn.Linear(before, width), nn.GELU(), nn.Dropout(_DROPOUT), nn.LayerNorm(width))
        head.add_module(f"hidden{number}", nn.Sequential(*layers))
    head.add_module("classify", nn.Linear(_HIDDEN[-1], num_classes))
    return head
