"""Table BACKBONES: number of classes and channels -> module giving logits."""

from collections.abc import Callable

from torch import nn

from components.models.lenet import lenet5
from components.models.timm_models import timm_model

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "timm": timm_model,
}
