"""What training attacks in place of a model: its honest view, or that of a faster private copy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from components.attacks.gradients import untouched
from components.defences.defended import honest_view
from components.objectives.renewal import renewed_copy
from components.tensors import Classifier, Images, Logits

Precision: TypeAlias = Literal["auto", "bfloat16", "float32"] | None
"""Of the copy that is attacked, as of `search_copy`; None attacks the model itself, in float32."""

Forwards: TypeAlias = Literal["separate", "joint", "legacy"]
"""How clean and adversarial images pass a model that normalises each batch by itself."""

_EXAMPLES = 2  # images on which the copy must agree; more would cost more than they tell


class Once:
    """Crafts images the first time it is asked, and gives the same ones from then on."""

    def __init__(self) -> None:
        self._images: Images | None = None

    def __call__(self, craft: Callable[[], Images]) -> Images:
        """Give the images."""
        if self._images is None:
            self._images = craft()
        return self._images


@dataclass(frozen=True)
class View:
    """What is attacked in place of a model.

    Attributes:
        network: the module that answers, for those who watch its layers.
        classify: from pixels to logits in float32, with usable gradients.
    """

    network: nn.Module
    classify: Classifier

    def __call__(self, images: Images) -> Logits:
        """Classify."""
        return self.classify(images)


@contextmanager
def attack_view(model: nn.Module, images: Images, precision: Precision) -> Iterator[View]:
    """Open a model for attack: frozen, in evaluation mode, through its honest view.

    Autocast around it ends where the view begins: what precision training has is its own affair.

    Args:
        model: as it was when the view is closed, also after an exception.
        images: of the batch; a copy has to agree with the model on the first two.
        precision: of the copy, which is made anew, since the last step changed the weights. Where
            none agrees with the model, that is attacked.

    Raises:
        ValueError: the precision is unknown.
    """
    # In bfloat16 the model would agree with no copy, and gradients of a sure model would vanish.
    with untouched(model), torch.autocast(images.device.type, enabled=False):
        copy = precision and renewed_copy(model, images[:_EXAMPLES], precision=precision)
        if not copy:
            yield View(model, honest_view(model))
            return
        network, view = copy.network, honest_view(copy.network)
        lower = copy.precision == "bfloat16"

        def classify(points: Images) -> Logits:
            with torch.autocast(points.device.type, dtype=torch.bfloat16, enabled=lower):
                return view(points).float()

        yield View(network, classify)


def paired_logits(
    model: nn.Module, images: Images, attacked: Images, forwards: Forwards
) -> tuple[Logits, Logits, Logits]:
    """Give the logits of clean images, of attacked ones, and the clean ones to compare these with.

    Args:
        model: in training mode, where the batch decides what BatchNorm does.
        images: clean.
        attacked: the same images, attacked.
        forwards: ``separate`` passes clean images and then attacked ones, each normalised among
            themselves. ``joint`` passes both as one batch, which is cheaper, but mixes their
            statistics. ``legacy`` is separate with a second pass of the clean images, as the
            published code of TRADES has it: running averages see them twice.

    Raises:
        ValueError: forwards is none of these.
    """
    if forwards == "joint":
        clean, adversarial = model(torch.cat([images, attacked])).chunk(2)
        return clean, adversarial, clean
    if forwards not in ("separate", "legacy"):
        raise ValueError(f"forwards must be separate, joint or legacy, got {forwards!r}")
    clean, adversarial = model(images), model(attacked)
    return clean, adversarial, model(images) if forwards == "legacy" else clean


def divergence(clean: Logits, adversarial: Logits) -> Tensor:
    """Give KL(p_clean || p_adversarial) of each image, in float32; gradients reach both."""
    before, after = clean.float().log_softmax(1), adversarial.float().log_softmax(1)
    return (before.exp() * (before - after)).sum(1)
