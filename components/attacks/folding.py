"""BatchNorm folded into the layers before it, and which layer writes the logits."""

from collections import Counter
from typing import Any, TypeAlias

from torch import Tensor, nn

from components.tensors import Images

_Layer: TypeAlias = nn.Conv2d | nn.Linear
_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d


def fold(network: nn.Module, example: Images) -> int:
    """Fold BatchNorm into the convolution or dense layer whose output it reads, and count these.

    Which ones these are is seen by watching an example pass through. Where the output is read
    elsewhere too, which cannot be seen, the network becomes another one: compare the logits.

    Args:
        network: is changed; in evaluation mode.
        example: images.
    """
    pairs = _pairs(network, example)
    for norm, layer in pairs.items():
        _absorb(layer, norm)
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module in pairs:
            # timm's BatchNorm carries dropout and activation as its children.
            network.set_submodule(name, nn.Sequential(*module.children()).eval())
    return len(pairs)


def _pairs(network: nn.Module, example: Images) -> dict[_Norm, _Layer]:
    """Find the BatchNorm layers that read what a layer has just written, both called once."""
    calls: Counter[nn.Module] = Counter()
    written: dict[int, tuple[Tensor, int, _Layer]] = {}
    pairs: dict[_Norm, _Layer] = {}

    def after_layer(layer: _Layer, _: Any, output: Tensor) -> None:
        calls[layer] += 1
        # Holding on to the tensor keeps its id from being used again.
        written[id(output)] = output, output._version, layer

    def before_norm(norm: _Norm, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        if id(inputs[0]) in written:
            output, version, layer = written[id(inputs[0])]
            if output._version == version and output.ndim == layer.weight.ndim:
                pairs[norm] = layer

    handles = []
    for module in network.modules():
        if type(module) in (nn.Conv2d, nn.Linear) and isinstance(module.weight, nn.Parameter):
            handles.append(module.register_forward_hook(after_layer))
        is_norm = isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
        if is_norm and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm))
    network(example)
    for handle in handles:
        handle.remove()
    readers = Counter(pairs.values())
    return {
        norm: layer
        for norm, layer in pairs.items()
        if calls[norm] == calls[layer] == 1 and readers[layer] == 1
    }


def _absorb(layer: _Layer, norm: _Norm) -> None:
    """Give a layer the weights with which it does what BatchNorm did after it."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    weight, bias = layer.weight, layer.bias
    scales = scale.view(-1, *[1] * (weight.ndim - 1))
    shift = shift if bias is None else shift + bias * scale
    layer.weight = nn.Parameter((weight * scales).to(weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def last_layer(network: nn.Module, example: Images) -> str | None:
    """Name the layer whose output the network returns, if it is one."""
    written: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: written.append((name, output))
        )
        for name, module in network.named_modules()
        if name and type(module) in (nn.Conv2d, nn.Linear)
    ]
    logits = network(example)
    for handle in handles:
        handle.remove()
    return next((name for name, output in written if output is logits), None)
