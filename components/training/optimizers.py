"""Table OPTIMIZERS: groups of parameters -> the rule by which gradients change them."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, Adamax, AdamW, Optimizer

from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.models.build import Model
from components.models.weights import head_layers
from components.training.config import TrainingConfig

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


def grouped(model: Model, settings: TrainingConfig) -> Groups:
    """Divide a model's parameters by their learning rate: all but the head's come first.

    The head is the part of the backbone, at its top, that holds the layers which depend on the
    classes. A feature pyramid decoder may have another one in its place.

    Raises:
        ValueError: the head has a rate of its own, but the backbone does not name it.
    """
    if settings.head_learning_rate is None:
        parts = [(settings.learning_rate, list(model.parameters()))]
    else:
        head = _head(model)
        of_head = {id(parameter) for parameter in head}
        body = [p for p in model.parameters() if id(p) not in of_head]
        parts = [(settings.learning_rate, body), (settings.head_learning_rate, head)]
    return [
        {"params": parameters, "lr": rate, "weight_decay": settings.weight_decay}
        for rate, parameters in parts
    ]


def _head(model: Model) -> list[nn.Parameter]:
    """Give the weights of the head that gives the logits."""
    backbone = model.backbone
    for part in model.modules():
        if isinstance(part, FeaturePyramidDecoder) and part.pooled is not None:
            return list(part.pooled.parameters())
        if isinstance(part, FeaturePyramidDecoder) and part.back is not None:
            # The front pass ends before the head; the back pass has a copy with one of its own.
            name = next(name for name, inner in part.inner.named_modules() if inner is backbone)
            backbone = part.back.get_submodule(name)
    names = {name.partition(".")[0] for name in head_layers(backbone)}
    if not names:
        kind = type(backbone).__name__
        raise ValueError(f"head_learning_rate fits no {kind}: it does not name its head")
    named = backbone.named_parameters()
    return [parameter for name, parameter in named if name.partition(".")[0] in names]


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamax": adamax,
    "adamw": adamw,
    "sgd": sgd,
}
