"""What a model costs: parameters, floating-point operations, memory of its feature maps."""

import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.attacks.gradients import untouched
from components.models.build import Model

_ACTIVATIONS = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.Mish),
    *(nn.PReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh),
)
_TIMM_ACTIVATIONS = "timm.layers.activations"  # by its name, since timm takes seconds to load
_WARM_UP, _TIMED = 3, 15
_LayerCost = Callable[[nn.Module, tuple[Any, ...], Tensor], int]


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
    """Count the numbers held for one image: weights and the unfolded input of each convolution.

    Madaan et al., 2020, whose count leaves out the biases of convolutions.
    """
    return _sum_over_layers(model, image_shape, _layer_memory)


def measure_latency(model: nn.Module, images: Tensor) -> float:
    """Time the classification of a batch, the median of a few times, in seconds.

    It belongs to the machine and to what else it does: figures of two machines cannot be compared.

    Args:
        model: left as it was.
        images: one or more, on the model's device.
    """
    seconds = []
    with untouched(model), torch.no_grad(), torch.random.fork_rng():
        for _ in range(_WARM_UP + _TIMED):
            started = time.perf_counter()
            model(images).sum().item()  # which waits for the device
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UP:])


def measure_activation_memory(model: nn.Module, images: Tensor) -> int:
    """Give the most bytes that tensors of a forward pass without gradients hold at one time.

    Parameters, the images and what an operation needs only for itself are not among them.

    Args:
        model: left as it was.
        images: one or more, on the model's device.
    """
    with untouched(model), torch.no_grad(), torch.random.fork_rng(), _Allocations() as allocations:
        model(images)
    return allocations.most


class _Allocations(TorchDispatchMode):
    """Follows how many bytes the tensors that operations give hold together.

    Attributes:
        most: at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._tensors: Counter[int] = Counter()  # by the address of what they share

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
            if address in given and not self._tensors[address]:
                continue  # a view of a parameter or of the images
            self._now += 0 if self._tensors[address] else size
            self._tensors[address] += 1
            weakref.finalize(tensor, self._release, address, size)
        self.most = max(self.most, self._now)
        return output

    def _release(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        self._now -= 0 if self._tensors[address] else size


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _layer_flops(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> int:
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        terms = layer.weight[0].numel()  # so many products, and one sum fewer
        return output.numel() * (2 * terms - 1 + (layer.bias is not None))
    if isinstance(layer, nn.ConvTranspose2d):
        # Each input has so many products, of which padding crops some as it adds some elsewhere.
        products = inputs[0].numel() * layer.weight[0].numel()
        return 2 * products - output.numel() * (1 - (layer.bias is not None))
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        return output.numel() * _area(layer.kernel_size)
    if isinstance(layer, _ACTIVATIONS) or type(layer).__module__.startswith(_TIMM_ACTIVATIONS):
        return output.numel()
    return 0


def _layer_memory(layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        places = output.shape[-2] * output.shape[-1]
        unfolded = layer.in_channels * _area(layer.kernel_size) * places
        return layer.weight.numel() + unfolded
    if isinstance(layer, (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)):
        return count_parameters(layer)
    return 0


def _area(kernel_size: int | tuple[int, ...]) -> int:
    if isinstance(kernel_size, int):
        return kernel_size**2
    return kernel_size[0] * kernel_size[1]


def _sum_over_layers(model: nn.Module, image_shape: tuple[int, ...], cost: _LayerCost) -> int:
    """Pass one black image through and add up what each call of a layer costs."""
    calls: list[int] = []

    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append(cost(layer, inputs, output))

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
