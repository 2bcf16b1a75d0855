"""Watching: the last features of a network that still have places, and how they move its logits."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from components.config import unknown
from components.defences.random_resize_pad import unmoved
from components.objectives.crafting import View
from components.tensors import Images, Labels, Logits

_NAMED = 5  # layers in an error, the last ones
_ROUNDING = {torch.bfloat16: 2e-2, torch.float32: 1e-4}  # of a mean, against its largest entry


@dataclass(frozen=True)
class Site:
    """A place in a network.

    Attributes:
        name: of a module.
        side: what it reads or what it writes.
        call: the one to look at, where a pass calls the module several times.
        linear: dense layer that reads the mean over places of these features and writes the
            logits, which then are linear in them; None if there is no such layer.
    """

    name: str
    side: Literal["input", "output"]
    call: int
    linear: str | None


@dataclass(frozen=True)
class Seen:
    """What one forward pass of a batch showed.

    Attributes:
        logits: of every image.
        features: of shape (batch, channels, height, width).
        slopes: from a class for each image to the gradient of its logit at the features, of their
            shape or with one place for all of them.
    """

    logits: Logits
    features: Tensor
    slopes: Callable[[Labels], Tensor]


def look(view: View, images: Images, *, layer: str | None = None) -> Seen:
    """Watch a batch pass through a network.

    Where the features are averaged over their places and a dense layer reads the mean, its weights
    are the gradient. Elsewhere the rest of the network, from the features on, is differentiated.

    Resize-pads hold still meanwhile: behind them features would not lie where the pixels lie.

    Args:
        view: frozen and in evaluation mode.
        images: at least one.
        layer: module whose output to look at; None finds the last features with several places.

    Raises:
        ValueError: there is no such layer, or no features whose places lie as in the image, or only
            the first layer's where tokens follow; these may be named.
    """
    seen: list[Tensor] = []

    def keep(features: Tensor) -> Tensor:
        if site.linear is None:
            features = features.detach().requires_grad_(True)
        seen.append(features)
        return features

    with unmoved(view.network):
        with torch.no_grad():
            site = _find(view, images[:1], layer)
        with _tapped(view.network, site, keep), torch.set_grad_enabled(site.linear is None):
            logits = view(images)
    features = seen[0]
    height, width = features.shape[2:]

    def slopes(classes: Labels) -> Tensor:
        if site.linear is None:
            with torch.enable_grad():
                chosen = logits.gather(1, classes[:, None]).sum()
            return torch.autograd.grad(chosen, features, retain_graph=True)[0].float()
        weight = view.network.get_submodule(site.linear).weight
        assert isinstance(weight, Tensor)
        return (weight.detach()[classes].float() / (height * width))[:, :, None, None]

    return Seen(logits.detach(), features.detach().float(), slopes)


def _find(view: View, example: Images, layer: str | None) -> Site:
    """Find the features by watching one image pass."""
    modules = dict(view.network.named_modules())
    if layer is not None and layer not in modules:
        raise ValueError(unknown("layer", layer, [name for name in modules if name]))
    calls: Counter[str] = Counter()
    places: list[tuple[Site, Tensor, int]] = []
    dense: list[tuple[str, Tensor, Tensor]] = []
    layers, tokens = 0, False

    def remember(name: str, side: Literal["input", "output"], tensor: Any) -> None:
        if tensor is not example and _lies_as(tensor, example):
            places.append((Site(name, side, calls[name], None), tensor, layers))

    def before(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[name] += 1
        if not isinstance(module, nn.Softmax):  # what it reads is attention
            remember(name, "input", inputs[0] if inputs else None)

    def after(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal layers, tokens
        layers += any(True for _ in module.parameters(recurse=False))
        tokens |= isinstance(output, Tensor) and output.ndim == 3
        remember(name, "output", output)
        if type(module) is nn.Linear and inputs[0].ndim == 2:
            dense.append((name, inputs[0], output))

    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda m, i, n=name: before(n, m, i)))
        handles.append(module.register_forward_hook(lambda m, i, o, n=name: after(n, m, i, o)))
    try:
        logits = view(example)
    finally:
        for handle in handles:
            handle.remove()
    written = [place for place in places if place[0].side == "output"]
    wanted = places if layer is None else [p for p in written if p[0].name == layer]
    found = next((place for place in reversed(wanted) if not _is_attention(place[1])), None)
    if found is None:
        others = [site.name for site, tensor, _ in written if not _is_attention(tensor)]
        raise ValueError(_nothing_there(layer, others))
    site, features, behind = found
    if layer is None and tokens and behind <= 1:
        raise ValueError(
            "the last features whose places lie as in the image are those of the first layer, "
            f"{site.name!r}, which know no more than pixels; name it as layer if it is meant, or "
            "take a network that keeps such features"
        )
    linear = None
    if dense and dense[-1][2].shape == logits.shape and _is_mean(dense[-1][1], features):
        linear = dense[-1][0]
    return Site(site.name, site.side, site.call, linear)


def _lies_as(tensor: Any, image: Images) -> bool:
    """Say whether a tensor has several places, which lie as in the image.

    What else has four dimensions are tokens divided among heads, and channels that come last.
    """
    if not isinstance(tensor, Tensor) or tensor.ndim != 4 or len(tensor) != len(image):
        return False
    (tall, wide), (height, width) = image.shape[2:], tensor.shape[2:]
    # Edges without padding and rounding make up less than a place.
    alike = abs(height * wide - width * tall) < max(tall, wide)
    return alike and height * width > 1 and height <= tall and width <= wide


def _is_attention(tensor: Tensor) -> bool:
    """Say whether a tensor says how much of each token another one takes; that may be square."""
    return bool(tensor.amin() >= 0) and bool((tensor.float().sum(3) - 1).abs().amax() < 0.05)


def _nothing_there(layer: str | None, others: list[str]) -> str:
    where = "no layer" if layer is None else f"not {layer!r}"
    names = [name for name in dict.fromkeys(others) if name][-_NAMED:]
    return (
        "maps need features with several places, channels first, which lie as in the image, but "
        f"{where} has such; "
        + (f"take one of {names}" if names else "take another network, or the method centre")
    )


def _is_mean(read: Tensor, features: Tensor) -> bool:
    mean = features.float().mean((2, 3))
    if read.shape != mean.shape:
        return False
    rounding = _ROUNDING.get(features.dtype, 1e-4) * float(mean.abs().max())
    return float((read.float() - mean).abs().max()) <= rounding


@contextmanager
def _tapped(network: nn.Module, site: Site, keep: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let features pass through a function on their way."""
    module, calls = network.get_submodule(site.name), 0

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal calls
        calls += 1
        if site.side == "output" or calls != site.call:
            return None
        return (keep(inputs[0]), *inputs[1:])

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Tensor | None:
        return keep(output) if site.side == "output" and calls == site.call else None

    handles = module.register_forward_pre_hook(before), module.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
