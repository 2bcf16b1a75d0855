"""Table OPTIMIZERS: groups of parameters -> the rule by which gradients change them."""

from collections.abc import Callable
from typing import Any

from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer

Groups = list[dict[str, Any]]
"""Parameters under ``params``, with their ``lr`` and ``weight_decay``."""


def sgd(groups: Groups, *, momentum: float = 0.9, nesterov: bool = False) -> Optimizer:
    """Descend with momentum; weight decay is coupled."""
    return SGD(groups, momentum=momentum, nesterov=nesterov)


def adam(groups: Groups, *, beta1: float = 0.9, beta2: float = 0.999) -> Optimizer:
    """Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, algorithm 1; coupled weight decay."""
    return Adam(groups, betas=(beta1, beta2))


def adamw(groups: Groups, *, beta1: float = 0.9, beta2: float = 0.999) -> Optimizer:
    """Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101: Adam, decoupled decay."""
    return AdamW(groups, betas=(beta1, beta2))


def adamax(groups: Groups, *, beta1: float = 0.9, beta2: float = 0.999) -> Optimizer:
    """Kingma and Ba, 2015, algorithm 2: Adam with the largest gradient; coupled weight decay."""
    return Adamax(groups, betas=(beta1, beta2))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamax": adamax,
    "adamw": adamw,
    "sgd": sgd,
}
