"""Adversarial weight perturbation: another objective at the worst weights nearby."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from components.objectives.crafting import Once
from components.sharing import batch_means
from components.tensors import Images, Targets

_TINY = 1e-20  # of the published code: a layer without gradient is not moved


def awp(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    objective: Callable[..., dict[str, Tensor]],
    gamma: float = 0.01,
    seed: int = 0,
    rows: Tensor | None = None,
) -> dict[str, Tensor]:
    """Give the losses of an objective where the weights are moved along their gradient.

    Wu et al., 2020, https://arxiv.org/abs/2004.05884, equations 8 to 10 with one step: layer by
    layer, the weights move by gamma of their own norm. Images are attacked once, at the weights as
    they are. Differs from the published code: the model's own weights never change, the shift is
    part of the computation that is differentiated; so weight decay acts on the weights themselves.

    Args:
        model: in training mode; its running averages see the moved weights alone.
        images: float32 in [0, 1].
        targets: class probabilities.
        objective: any that crafts adversarial images.
        gamma: length of the shift: 0.01 for adversarial training, 0.005 for TRADES.
        seed: of the objective.
        rows: as for `Objective`.

    Returns:
        The losses of the objective.

    Raises:
        ValueError: gamma is negative.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    attacked = Once()

    def losses() -> dict[str, Tensor]:
        return objective(model, images, targets, attacked=attacked, seed=seed, rows=rows)

    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and weight.requires_grad
    }
    with _buffers_kept(model):
        here = losses()
        slopes = torch.autograd.grad(here["loss"], list(weights.values()), allow_unused=True)
    used = [(name, slope) for name, slope in zip(weights, slopes, strict=True) if slope is not None]
    whole = batch_means([slope for _, slope in used], len(images))
    moved = {
        f"model.{name}": weights[name] + _shift(weights[name].detach(), slope, gamma)
        for (name, _), slope in zip(used, whole, strict=True)
    }
    there: dict[str, Tensor] = functional_call(_Holder(model), moved, (losses,))
    figures = {name: value.detach() for name, value in here.items() if name not in there}
    return {**there, **figures}


class _Holder(nn.Module):
    """Runs something while the parameters of a model are others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        return run()


def _shift(weight: Tensor, slope: Tensor, gamma: float) -> Tensor:
    return gamma * weight.norm() * slope / (slope.norm() + _TINY)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass in training mode changes."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
