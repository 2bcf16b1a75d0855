"""Normalisation, defences and backbone put together: pixels to logits."""

from dataclasses import dataclass, replace
from inspect import signature

import torch
from torch import Tensor, nn

from components.choose import choose
from components.config import Choice, Config
from components.defences import DEFENCES
from components.defences.defended import Defended, honest_view
from components.models import BACKBONES
from components.models.dependent_gates import add_dependent_gates
from components.models.tracing import find_units
from components.models.units import narrow
from components.models.weights import divide_choice, published_normalisation, take_weights
from components.tensors import Classifier, Images, Logits


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Config):
    """The words that rebuild a model.

    Attributes:
        backbone: an entry of BACKBONES with its options, widths included. Two more tell where to
            start from: ``weights``, the path or s3:// address of a safetensors file, a torch file
            or a checkpoint folder; and ``reset_head``, to let the classifier start afresh. Two are
            of pruning: ``units`` says how many it left, by the names of the gates, and
            ``dependent_gates`` that there are gates which depend on the image.
        defences: entries of DEFENCES, outermost last.
        classes: their names, in the order of the logits.
        image_shape: channels, height, width.
        mean: of the training images, per channel.
        deviation: standard deviation of the training images, per channel.
    """

    backbone: Choice
    defences: tuple[Choice, ...] = ()
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_shape) != 3:
            raise ValueError(f"image_shape must be channels, height, width, got {self.image_shape}")
        if not len(self.mean) == len(self.deviation) == self.image_shape[0]:
            raise ValueError("mean and deviation must have one entry per channel")
        if min(self.deviation) <= 0:
            raise ValueError(f"deviation must be above 0, got {self.deviation}")


class Normalise(nn.Module):
    """Subtracts the mean and divides by the deviation, per channel."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, images: Images) -> Images:
        """Normalise pixels of [0, 1]."""
        return (images - self.mean) / self.deviation


class Model(nn.Module):
    """A classifier that knows its own words.

    Attributes:
        spec: what rebuilds it.
        network: the backbone behind normalisation, inside its defences.
    """

    def __init__(self, spec: ModelSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        network: nn.Module = nn.Sequential(Normalise(spec.mean, spec.deviation), backbone)
        for defence in spec.defences:
            network = choose(DEFENCES, defence)(network)
        self.network = network

    @property
    def backbone(self) -> nn.Module:
        """The network without normalisation and defences."""
        network = self.network
        while isinstance(network, Defended):
            network = network.inner
        assert isinstance(network, nn.Sequential)
        return network[1]

    def honest_view(self, draws: int) -> Classifier:
        """Give the same decision function with gradients that an attacker can use."""
        return honest_view(self.network, draws=draws)

    def forward(self, images: Images) -> Logits:
        """Classify pixels in [0, 1]."""
        return self.network(images)


def build_model(spec: ModelSpec) -> Model:
    """Build the model a spec describes.

    Its weights are fresh, from torch's global generator, or those that the spec's backbone names;
    then its own spec no longer names them, and rebuilding it needs neither file nor network.
    Weights that come with a normalisation keep it: those of timm and those of a checkpoint.

    Raises:
        ValueError: the backbone, a defence or one of their options is unknown or out of range, the
            backbone does not take such images, or the weights cannot be had or do not fit.
    """
    choice, source = divide_choice(spec.backbone)
    build = choose(BACKBONES, choice, given=("image_size",))
    # Only some backbones have to know the size of the images.
    sized = "image_size" in signature(build).parameters
    size = {"image_size": spec.image_shape[1:]} if sized else {}
    backbone = build(len(spec.classes), spec.image_shape[0], **size)
    if source.units is not None:
        narrow(backbone, find_units(backbone, spec.image_shape), source.units)
    if source.dependent_gates:
        add_dependent_gates(backbone, spec.image_shape)
    expected = take_weights(backbone, source) if source.address else None
    if choice.get("pretrained"):
        choice, expected = {**choice, "pretrained": False}, published_normalisation(backbone)
    if source.units is not None:
        choice = {**choice, "units": source.units}
    if source.dependent_gates:
        choice = {**choice, "dependent_gates": True}
    spec = replace(spec, backbone=choice)
    if expected is not None and len(expected.mean) == spec.image_shape[0]:
        spec = replace(spec, mean=expected.mean, deviation=expected.deviation)
    model = Model(spec, backbone)
    # Convolutions and pooling run a third faster on images whose channels lie side by side.
    return model.to(memory_format=torch.channels_last)
