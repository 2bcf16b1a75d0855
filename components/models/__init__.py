"""Table BACKBONES: number of classes and channels -> module giving logits."""

from collections.abc import Callable

from torch import nn

from components.models.convnext import convnext_tiny
from components.models.lenet import lenet5
from components.models.preact_resnet import preact_resnet18
from components.models.resnet import resnet18
from components.models.se_resnet import se_resnet
from components.models.timm_models import timm_model
from components.models.vgg import vgg16
from components.models.wide_resnet import wide_resnet

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "convnext_tiny": convnext_tiny,
    "lenet5": lenet5,
    "preact_resnet18": preact_resnet18,
    "resnet18": resnet18,
    "se_resnet": se_resnet,
    "timm": timm_model,
    "vgg16": vgg16,
    "wide_resnet": wide_resnet,
}
