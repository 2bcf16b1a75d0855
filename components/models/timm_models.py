"""Any timm classifier by name."""

import difflib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn


def timm_model(
    num_classes: int,
    in_channels: int,
    *,
    model: str,
    pretrained: bool = False,
    activation: Literal["", "elu", "gelu", "relu", "silu"] = "",
    image_size: tuple[int, ...] | None = None,
) -> nn.Module:
    """Build a classifier of the timm library.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        model: timm's name of it, such as ``resnet50`` or ``convnext_tiny``, with or without the tag
            of certain weights, such as ``resnet50.a1_in1k``.
        pretrained: start from timm's weights, which are downloaded; the classifier starts afresh
            where they tell another number of classes apart.
        activation: in place of the network's own; smooth ones help against attacks, and the feature
            pyramid decoder has ``elu``. Empty keeps its own.
        image_size: height and width of the images; None is the size timm made it for.

    Raises:
        ValueError: timm does not know the name, the network does not take images of this size or
            another activation, or there are no weights for it or they cannot be had.
    """
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    if activation:
        options["act_layer"] = _activation(model, activation)
    if image_size is None:
        return load_timm(model, pretrained=pretrained, **options)
    if known_model(model).fixed_input_size:
        options["img_size"] = image_size
    shape = (in_channels, *image_size)
    try:
        network = load_timm(model, pretrained=False, **options)
        _check_fit(network, shape, num_classes)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{model} does not take images of {image_size[0]} x {image_size[1]} pixels: {reason}"
        ) from error
    return load_timm(model, pretrained=True, **options) if pretrained else network


def load_timm(model: str, *, pretrained: bool, **options: Any) -> Any:
    """Create a network of timm, with its weights if they are wanted.

    It has a function `adapt_weights` to which those of a file may be given.

    Raises:
        ValueError: timm does not know the name, or there are no weights or they cannot be had.
    """
    network = _create(model, pretrained=pretrained, **options)
    network.adapt_weights = partial(_adapt, model, options)
    return network


def _create(model: str, *, pretrained: bool, **options: Any) -> Any:
    import timm  # takes seconds to load, and most steps never need it

    known = known_model(model)
    if not pretrained:
        return timm.create_model(model, pretrained=False, **options)
    if not known.has_weights:
        raise ValueError(
            f"timm has no weights for {model!r}; leave pretrained out, or give those of a file as "
            "weights"
        )
    if torch.empty(0).is_meta:  # a network that is only tried has no memory for weights
        return timm.create_model(model, pretrained=False, **options)
    try:
        return timm.create_model(model, pretrained=True, **options)
    except Exception as error:  # whatever a network may answer
        place = f"https://huggingface.co/{known.hf_hub_id}" if known.hf_hub_id else known.url
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the weights of {model} cannot be had from {place} ({reason}); download them where "
            "there is a network and give the file's path or s3:// address as weights "
            "in place of pretrained, with reset_head for other classes"
        ) from error


def _adapt(
    model: str, options: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Do to the weights of a file what timm does to those it downloads.

    It knows older names, and fits the first convolution to other channels and the positions to
    another size of images.

    Args:
        model: timm's name of the network.
        options: what the network was created with.
        state: tensors by name; they are left as they are.

    Returns:
        Tensors by the network's names and in its shapes, but for the classifier, which is that of
        the file; None if they are of another network.
    """
    import timm

    known = known_model(model)
    classifier = state.get(f"{known.classifier}.weight")
    # With the file's classes nothing is left out; timm would leave out a classifier without a word.
    num_classes = known.num_classes if classifier is None else len(classifier)
    source = {"state_dict": dict(state), "num_classes": num_classes}
    options = {**options, "num_classes": num_classes}
    try:
        network = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=source, **options
        )
    except Exception:  # whatever weights of another network may provoke
        return None
    return dict(network.state_dict())


def _activation(model: str, activation: str) -> type[nn.Module]:
    """Give an activation's class.

    Raises:
        ValueError: timm does not know the model, or this one has its activations built in.
    """
    import timm
    from timm.layers.create_act import get_act_layer

    known_model(model)
    wanted: type[nn.Module] = get_act_layer(activation)
    try:
        with torch.device("meta"):
            network = timm.create_model(model, act_layer=wanted)
    except TypeError:  # it has no such argument
        network = nn.Module()
    if not any(isinstance(part, wanted) for part in network.modules()):
        raise ValueError(f"{model} does not let its activation be chosen; leave activation out")
    return wanted


def known_model(model: str) -> Any:
    """Give what timm knows about a network and its weights.

    Raises:
        ValueError: it does not have that name or tag; the line says which are near.
    """
    import timm

    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models())
        hint = f"near it are {', '.join(near)}; " if near else ""
        raise ValueError(f"timm has no model {model!r}; {hint}timm.list_models() names all it has")
    tags = timm.list_pretrained(f"{name}.*")
    if tag and model not in tags:
        raise ValueError(f"timm has no weights {model!r}, expected {name} or one of {sorted(tags)}")
    return timm.get_pretrained_cfg(model)


@torch.no_grad()
def _check_fit(network: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Pass one black image through, and see that no pixel is left out.

    Raises:
        ValueError: the patches do not tile the image, or what comes out is no logits; other errors
            are the network's own.
    """
    from timm.layers.patch_embed import PatchEmbed

    embed = getattr(network, "patch_embed", None)
    if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad:
        height, width = embed.patch_size
        if shape[1] % height or shape[2] % width:
            raise ValueError(f"its patches are of {height} x {width} pixels and must tile them")
    weight = next(network.parameters())
    logits = network.eval()(torch.zeros(1, *shape, device=weight.device))
    network.train()
    if logits.shape != (1, num_classes):
        raise ValueError(f"it gives {tuple(logits.shape)} instead of one logit per class")
