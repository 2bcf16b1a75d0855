"""Sharing: what a batch comes to as a whole, where several processes have a share of it each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def batch_means(values: Sequence[Tensor], images: int) -> list[Tensor]:
    """Average over all processes what each has found of its share.

    Args:
        values: means over this process's images, of the same shapes in every process.
        images: how many these are.

    Returns:
        Means over the whole batch, without gradient; in a lone process, the values themselves.
    """
    found = [value.detach() for value in values]
    if not (found and dist.is_available() and dist.is_initialized()):
        return found
    count = found[0].new_full((1,), images)
    message = torch.cat([*(value.flatten() * images for value in found), count])
    dist.all_reduce(message)
    parts = (message[:-1] / message[-1]).split([value.numel() for value in found])
    return [part.view_as(value) for part, value in zip(parts, found, strict=True)]


class SharedStatistics(TorchFunctionMode):
    """Within it, batch normalisation in training mode takes the statistics of the whole batch.

    Whatever module asks for it, and on any device. Every process must normalise as often as the
    others, and take the mean over its images for its loss. Gradients of one share are those of the
    mean over the whole batch, divided by the share; to be differentiated twice.

    Args:
        copies: how many processes have each image; 1 where each has a share of its own.
    """

    def __init__(self, copies: int = 1) -> None:
        super().__init__()
        self._copies = copies

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take over `batch_norm`, and leave all else alone."""
        if func is functional.batch_norm:
            return _batch_norm(self._copies, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    copies: int,
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `functional.batch_norm` does, in training with all processes' images."""
    if not training:
        return functional.batch_norm(
            inputs, running_mean, running_var, weight, bias, False, momentum, eps
        )
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    images = len(inputs)
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    shape = [1, -1] + [1] * (inputs.ndim - 2)
    amount = values.new_full((1,), inputs.numel() // inputs.shape[1])
    sums = _add_up(torch.cat([values.sum(axes), amount]), images)
    total = sums[-1].detach()
    mean = sums[:-1] / total
    # The mean goes first and the squares after it: together they would lose digits.
    centred = values - mean.view(shape)
    variance = _add_up(centred.square().sum(axes), images) / total
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = variance * (total / (total - copies))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    outputs = centred * scale.view(shape)
    return (outputs if bias is None else outputs + bias.view(shape)).to(inputs.dtype)


def _add_up(values: Tensor, images: int) -> Tensor:
    sums: Tensor = _Sum.apply(values, images)
    return sums


class _Sum(torch.autograd.Function):
    """Add up over all processes.

    Each process's loss is the mean over its own images. What comes back is therefore weighted by
    them, and divided by the images of whom it comes back to.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, images: int) -> Tensor:
        ctx.images = images
        sums = values.clone()
        dist.all_reduce(sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return _add_up(gradient * ctx.images, ctx.images) / ctx.images, None
