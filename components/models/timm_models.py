"""Any timm classifier by name."""

from torch import nn


def timm_model(
    num_classes: int, in_channels: int, *, model: str, pretrained: bool = False
) -> nn.Module:
    """Build a classifier of the timm library.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        model: timm's name of it, such as ``resnet50`` or ``convnext_tiny``.
        pretrained: start from timm's weights, which are downloaded.

    Raises:
        ValueError: timm does not know the name.
    """
    import timm  # takes seconds to load, and most steps never need it

    if not timm.is_model(model):
        raise ValueError(f"timm has no model {model!r}; timm.list_models() names those it has")
    network: nn.Module = timm.create_model(
        model, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels
    )
    return network
