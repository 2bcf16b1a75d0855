"""What a model costs: parameters, floating-point operations, memory of its feature maps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from components.models.build import Model

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish)
_LayerCost = Callable[[nn.Module, Tensor], int]


def costs(model: Model) -> dict[str, int]:
    """Count the parameters and the floating-point operations of a model."""
    return {
        "parameters": count_parameters(model),
        "flops": count_flops(model, model.spec.image_shape),
    }


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that training may change."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Count the floating-point operations of one image, a multiplication and an addition as two.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355: convolutions, dense layers and their
    biases, activations and pooling count; normalisation and everything else counts nothing.
    """
    return _sum_over_layers(model, image_shape, _layer_flops)


def count_memory(model: nn.Module, image_shape: tuple[int, ...]) -> int:
    """Count the numbers held for one image: kernels and the unfolded input of each convolution.

    Madaan et al., 2020, whose count leaves out the biases of convolutions.
    """
    return _sum_over_layers(model, image_shape, _layer_memory)


def _layer_flops(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        terms = layer.weight[0].numel()  # so many products, and one sum fewer
        return output.numel() * (2 * terms - 1 + (layer.bias is not None))
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        return output.numel() * _area(layer.kernel_size)
    if isinstance(layer, _ACTIVATIONS):
        return output.numel()
    return 0


def _layer_memory(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        places = output.shape[-2] * output.shape[-1]
        unfolded = layer.in_channels * _area(layer.kernel_size) * places
        return layer.weight.numel() + unfolded
    if isinstance(layer, nn.Linear):
        return count_parameters(layer)
    return 0


def _area(kernel_size: int | tuple[int, ...]) -> int:
    if isinstance(kernel_size, int):
        return kernel_size**2
    return kernel_size[0] * kernel_size[1]


def _sum_over_layers(model: nn.Module, image_shape: tuple[int, ...], cost: _LayerCost) -> int:
    """Pass one black image through and add up what each call of a layer costs."""
    calls: list[int] = []

    def record(layer: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        calls.append(cost(layer, output))

    device = next(model.parameters()).device
    with _watched(model, record), torch.no_grad():
        model(torch.zeros(1, *image_shape, device=device))
    return sum(calls)


@contextmanager
def _watched(model: nn.Module, record: Callable[..., None]) -> Iterator[None]:
    """Call `record` after every layer, in evaluation mode so that no running average moves."""
    modes = {module: module.training for module in model.modules()}
    leaves = [module for module in modes if not list(module.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    model.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
