"""Attachment: where a decoder finds a pyramid of features in somebody else's network."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_SIZES = (64, 32, 28, 224)  # of images that networks are made for; the first one taken will do
_LEVELS = 4  # as many as residual networks have stages


@dataclass(frozen=True)
class Level:
    """A module whose output, or input, is a feature map.

    Attributes:
        name: of the module.
        shape: channels, height, width of what comes out of it.
        in_shape: the same of what goes in; empty if that is no map.
        doublings: how often the map has to be doubled to be as large as the image.
        overwritten: what follows changes the map in place.
        calls: during one pass.
    """

    name: str
    shape: tuple[int, ...]
    in_shape: tuple[int, ...]
    doublings: int
    overwritten: bool
    calls: int


@dataclass(frozen=True)
class Survey:
    """What one pass of a black image tells about a network.

    Attributes:
        image_shape: channels, height and width of that image.
        num_classes: number of logits.
        maps: every module that gives a feature map, in the order in which they finish.
    """

    image_shape: tuple[int, ...]
    num_classes: int
    maps: dict[str, Level]


def survey(network: nn.Module, image_size: int | None = None) -> Survey:
    """Pass one black image through a network, in evaluation mode, and leave no trace.

    Args:
        network: takes pixels; on the meta device nothing is computed.
        image_size: height and width of the image; None tries some that are common.

    Raises:
        ValueError: the network has no convolution, or takes no images of these sizes.
    """
    convolutions = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    first = next(convolutions, None)
    if first is None:
        raise ValueError("a feature pyramid needs a network with convolutions")
    sizes = (image_size,) if image_size else _SIZES
    reasons = []
    for size in sizes:
        images = torch.zeros(1, first.in_channels, size, size, device=first.weight.device)
        try:
            return _survey(network, images)
        except (AssertionError, RuntimeError, ValueError) as error:
            reasons.append(" ".join(str(error).split()))
    raise ValueError(
        f"the network takes no images of {' or '.join(map(str, sizes))} pixels a side; give "
        f"image_size ({reasons[0]})"
    )


def find_levels(network: nn.Module, found: Survey, names: Sequence[str]) -> list[Level]:
    """Give the levels of the pyramid, the finest first, one of each size.

    Args:
        network: the one that was surveyed.
        found: by the survey.
        names: of the blocks, without what wraps the network. Empty takes the last four sizes of
            what the network itself calls its stages: timm's ``feature_info`` or
            ``latent_features``; and where it does not, of all modules that are called once, the
            last with that size.

    Raises:
        ValueError: a name is unknown or no block's, or there are fewer than two sizes.
    """
    wanted = [resolve(network, name) for name in names] or _own_words(network)
    maps = [_usable(found, name) for name in wanted] if wanted else _narrowing(found)
    by_size = {level.shape[1:]: level for level in maps}
    levels = sorted(by_size.values(), key=lambda level: -level.shape[1])
    if len(levels) < 2:
        raise ValueError(
            "a feature pyramid needs maps of two sizes at least, the network has "
            f"{[level.shape for level in levels]}; name its blocks as levels"
        )
    return levels if names else levels[-_LEVELS:]


def resolve(network: nn.Module, name: str) -> str:
    """Give the full name of a module that is known by the last parts of its name.

    Raises:
        ValueError: there is none.
    """
    full = [found for found, _ in network.named_modules()]
    matches = [found for found in full if found == name or found.endswith(f".{name}")]
    if not matches or not name:
        blocks = sorted(
            {found.rpartition(".")[2] for found in full if found.count(".") <= 2} - {""}
        )
        raise ValueError(f"the network has no block {name!r}; near its surface are {blocks}")
    return min(matches, key=len)


def find_head(network: nn.Module) -> str:
    """Give the name of the layer that gives the logits: the last dense one.

    Networks without dense layers end in a convolution of a single pixel.

    Raises:
        ValueError: there is neither.
    """
    parts = dict(network.named_modules())
    layers = [name for name, part in parts.items() if _gives_logits(part)]
    dense = [name for name in layers if isinstance(parts[name], nn.Linear)]
    last = (_head_words(network) or dense or layers or [""])[-1]
    if last not in layers:
        raise ValueError(
            "the network has no dense layer that gives its logits; leave the spectral bound and "
            "dropout out, or give it another head"
        )
    return last


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Give the weights that depend on the number of classes."""
    words = tuple(_head_words(network)) or (find_head(network),)
    return [
        parameter
        for name, parameter in network.named_parameters()
        if any(name == word or name.startswith(f"{word}.") for word in words)
    ]


def find_places(
    network: nn.Module, found: Survey, finest: Level, names: Sequence[str]
) -> dict[str, int]:
    """Give the places where features are denoised, and their channels.

    Args:
        network: the one that was surveyed.
        found: by the survey.
        finest: level of the pyramid.
        names: of blocks, with ``:input`` behind the name for what comes into them. Empty is the
            finest level before and after; only after, where the image itself comes into it.

    Raises:
        ValueError: a name is unknown or no block's.
    """
    if not names:
        entered = finest.in_shape not in ((), found.image_shape)
        names = [f"{finest.name}:input"] * entered + [finest.name]
    places = {}
    for name in names:
        block, _, side = name.partition(":")
        level = _usable(found, resolve(network, block))
        shape = level.in_shape if side else level.shape
        if side not in ("", "input") or not shape:
            raise ValueError(f"{name!r} is no place to denoise; name a block, or 'block:input'")
        places[level.name + (":input" if side else "")] = shape[0]
    return places


def find_normalisation(network: nn.Module) -> str:
    """Give the name of the layer that subtracts the mean and divides by the deviation.

    Raises:
        ValueError: there is none.
    """
    for name, part in network.named_modules():
        if hasattr(part, "mean") and hasattr(part, "deviation"):
            return name
    raise ValueError("the network does not normalise its images; restore_space must be pixel")


def _head_words(network: nn.Module) -> list[str]:
    """Give what parts of the network name as their head."""
    return [
        f"{name}.{layer}" if name else layer
        for name, part in network.named_modules()
        for layer in getattr(part, "head_layers", ())
    ]


def _gives_logits(part: nn.Module) -> bool:
    pixelwise = isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)
    return pixelwise or isinstance(part, nn.Linear)


def _own_words(network: nn.Module) -> list[str]:
    """Give the stages that a part of the network names, if their maps can be what is meant."""
    for name, part in network.named_modules():
        prefix = f"{name}." if name else ""
        info = getattr(part, "feature_info", None)
        if isinstance(info, list) and info:
            return [prefix + point["module"] for point in info]
        stages = getattr(part, "latent_features", ())
        if len(stages) > 2:
            return [prefix + stage for stage in stages]
    return []


def _usable(found: Survey, name: str) -> Level:
    level = found.maps.get(name)
    if level is None or level.calls != 1:
        raise ValueError(f"{name} does not give one feature map of each image; name other levels")
    if level.shape[2] > found.image_shape[2] or level.shape[1] != level.shape[2]:
        raise ValueError(f"{name} gives {level.shape}, channels last; that is no feature map here")
    return level


def _narrowing(found: Survey) -> list[Level]:
    """Give all maps that are called once, but images and what is a single pixel in between."""
    return [
        level
        for level in found.maps.values()
        if level.calls == 1 and level.shape[1] > 1 and level.shape != found.image_shape
    ]


@torch.no_grad()
def _survey(network: nn.Module, images: Tensor) -> Survey:
    seen: dict[str, tuple[Any, ...]] = {}
    calls: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                return
            calls[name] = calls.get(name, 0) + 1
            incoming = [x for x in inputs[:1] if isinstance(x, Tensor) and x.ndim == 4]
            in_shape = tuple(incoming[0].shape[1:]) if incoming else ()
            seen.pop(name, None)  # the last call counts
            seen[name] = (output, output._version, in_shape)

        return hook

    handles = [
        part.register_forward_hook(watch(name)) for name, part in network.named_modules() if name
    ]
    try:
        with _resting(network):
            logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    maps = {
        name: Level(
            name,
            tuple(output.shape[1:]),
            in_shape,
            max(0, round(math.log2(images.shape[-1] / output.shape[-1]))),
            output._version != version,
            calls[name],
        )
        for name, (output, version, in_shape) in seen.items()
    }
    return Survey(tuple(images.shape[1:]), logits.shape[1], maps)


@contextmanager
def _resting(network: nn.Module) -> Iterator[None]:
    """Let a network be in evaluation mode, and whatever it draws be drawn again."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, training in modes:
            part.training = training
