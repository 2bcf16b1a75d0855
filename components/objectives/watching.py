"""Watching: the last features of a network that still have places, and how they move its logits."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from components.config import unknown
from components.objectives.crafting import View
from components.tensors import Images, Labels, Logits

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

    Args:
        view: frozen and in evaluation mode.
        images: at least one.
        layer: module whose output to look at; None finds the last features with several places.

    Raises:
        ValueError: there is no such layer, or no features with places.
    """
    with torch.no_grad():
        site = _find(view, images[:1], layer)
    seen: list[Tensor] = []

    def keep(features: Tensor) -> Tensor:
        if site.linear is None:
            features = features.detach().requires_grad_(True)
        seen.append(features)
        return features

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
    places: list[tuple[Site, Tensor]] = []
    dense: list[tuple[str, Tensor, Tensor]] = []

    def remember(name: str, side: Literal["input", "output"], tensor: Any) -> None:
        wanted = side == "output" if layer == name else layer is None
        if wanted and isinstance(tensor, Tensor) and tensor.ndim == 4 and tensor[0, 0].numel() > 1:
            places.append((Site(name, side, calls[name], None), tensor))

    def before(name: str, inputs: tuple[Any, ...]) -> None:
        calls[name] += 1
        remember(name, "input", inputs[0] if inputs else None)

    def after(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        remember(name, "output", output)
        if type(module) is nn.Linear and inputs[0].ndim == 2:
            dense.append((name, inputs[0], output))

    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda _, i, n=name: before(n, i)))
        handles.append(module.register_forward_hook(lambda m, i, o, n=name: after(n, m, i, o)))
    try:
        logits = view(example)
    finally:
        for handle in handles:
            handle.remove()
    if not places or places[-1][1] is example:
        where = "no layer" if layer is None else f"not {layer!r}"
        raise ValueError(f"maps need features with several places, but {where} has such")
    site, features = places[-1]
    linear = None
    if dense and dense[-1][2].shape == logits.shape and _is_mean(dense[-1][1], features):
        linear = dense[-1][0]
    return Site(site.name, site.side, site.call, linear)


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
