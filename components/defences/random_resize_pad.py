"""Random resize-pad: every forward pass sees the image at another size and place."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from components.defences.defended import Defended, honest_view
from components.tensors import Classifier, Images, Logits, bounded


class RandomResizePad(Defended):
    """Shrinks the images to a random size and pads them back at a random place.

    Xie et al., 2018, https://arxiv.org/abs/1711.01991. Differs from the paper: shrinks and pads
    back to the same size instead of enlarging, as Pei et al., 2022,
    https://arxiv.org/abs/2205.10617, do; and, unlike theirs, height and width are drawn apart and
    every offset that fits may occur.

    It is differentiable, so it withstands only attackers who do not average over draws: the honest
    view does.

    Args:
        inner: the model behind it.
        min_size: smallest side, as a share of the image's side; the largest is the side itself.
        train_only: pass images through unchanged in evaluation mode.
        form: ``published`` draws as the code of Pei et al. does, from square images: one side for
            height and width, never the full one, and offsets that leave at least one padded pixel
            right and below. Theirs are 218 to 223 of 224 pixels, 91 outcomes.
        per_sample: draw for each image of a batch by itself.
        fixed: no draws, but the smallest side in the middle, for exports that cannot draw.
        interpolation: of the smaller image.
        fill: value of the padded pixels, in [0, 1].

    Attributes:
        moves: pixels change their places in evaluation mode.

    Raises:
        ValueError: an option is out of range or has no effect.
    """

    def __init__(
        self,
        inner: nn.Module,
        *,
        min_size: float = 0.85,
        train_only: bool = False,
        form: Literal["free", "published"] = "free",
        per_sample: bool = False,
        fixed: bool = False,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "nearest",
        fill: float = 0.0,
    ) -> None:
        super().__init__(inner)
        if not 0 < min_size <= 1:
            raise ValueError(f"min_size must be above 0 and at most 1, got {min_size}")
        if not 0 <= fill <= 1:
            raise ValueError(f"fill must be in [0, 1], got {fill}")
        if form == "published" and min_size == 1:
            raise ValueError("the published form never draws the full side; min_size must be below")
        if fixed and (form == "published" or per_sample):
            raise ValueError("fixed draws nothing; leave form and per_sample out")
        self.min_size, self.train_only, self.form = min_size, train_only, form
        self.per_sample, self.fixed, self.fill = per_sample, fixed, fill
        self.interpolation = interpolation
        self.moves = not train_only and min_size < 1
        self.randomised = self.moves and not fixed

    def forward(self, images: Images) -> Logits:
        """Classify, with one draw of size and place for the whole batch, or for each image.

        Raises:
            ValueError: the form is the published one and the images are not square.
        """
        if self.moves or (self.train_only and self.training):
            images = self._resize_and_pad(images)
        return self.inner(images)

    def honest_view(self, draws: int) -> Classifier:
        """Average log-probabilities over draws, so that gradients point where most draws do."""
        inner = honest_view(self.inner, draws=draws)
        if not self.moves:
            return inner

        def view(images: Images) -> Logits:
            if not self.moves:  # `unmoved` stops views that were made before as well
                return inner(images)
            if self.fixed:
                return inner(self._resize_and_pad(images))
            drawn = [inner(self._resize_and_pad(images)) for _ in range(draws)]
            return torch.stack([logits.log_softmax(1) for logits in drawn]).mean(0)

        return view

    def _resize_and_pad(self, images: Images) -> Images:
        if not self.per_sample:
            return self._resized_and_padded(images)
        return torch.cat([self._resized_and_padded(one) for one in images.split(1)])

    def _resized_and_padded(self, images: Images) -> Images:
        height, width = images.shape[-2:]
        if self.fixed:
            (new_height, top), (new_width, left) = (
                _middle(side, self.min_size) for side in (height, width)
            )
        elif self.form == "published":
            if height != width:
                raise ValueError(f"the published form takes square images, got {height} x {width}")
            smallest = min(_smallest(height, self.min_size), height - 1)
            new_height = new_width = _integer(smallest, height)
            left = _integer(0, width - new_width)
            top = _integer(0, height - new_height)
        else:
            new_height, top = _draw(height, self.min_size)
            new_width, left = _draw(width, self.min_size)
        smaller = functional.interpolate(
            images, size=(new_height, new_width), mode=self.interpolation
        )
        if self.interpolation == "bicubic":
            smaller = bounded(smaller)  # it overshoots at edges
        right, bottom = width - new_width - left, height - new_height - top
        return functional.pad(smaller, (left, right, top, bottom), value=self.fill)


def moving_pads(model: nn.Module) -> list[RandomResizePad]:
    """Give every resize-pad inside a model that moves pixels in evaluation mode."""
    return [part for part in model.modules() if isinstance(part, RandomResizePad) and part.moves]


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Let every resize-pad inside a model, in evaluation mode, hand images on as they are."""
    pads = moving_pads(model)
    randomised = [pad.randomised for pad in pads]
    try:
        for pad in pads:
            pad.moves = pad.randomised = False
        yield
    finally:
        for pad, draws in zip(pads, randomised, strict=True):
            pad.moves, pad.randomised = True, draws


@torch.no_grad()
def predict_ensemble(
    model: Classifier,
    images: Images,
    *,
    draws: int,
    seed: int,
    average: Literal["probabilities", "logits"] = "probabilities",
) -> Logits:
    """Average what a model that draws at random says about images.

    Args:
        model: draws from torch's global generator, which is as it was afterwards.
        images: in [0, 1].
        draws: to average; to be stated beside every accuracy, with the seed.
        seed: of the draws.
        average: of what.

    Returns:
        The mean, as logits: of probabilities, their logarithms.

    Raises:
        ValueError: there are no draws.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        drawn = torch.stack([model(images).float() for _ in range(draws)])
    if average == "logits":
        return drawn.mean(0)
    return drawn.log_softmax(2).logsumexp(0) - math.log(draws)


def _draw(side: int, min_size: float) -> tuple[int, int]:
    """Draw a new side uniformly and an offset uniformly among those that fit it."""
    new_side = _integer(_smallest(side, min_size), side + 1)
    return new_side, _integer(0, side - new_side + 1)


def _middle(side: int, min_size: float) -> tuple[int, int]:
    """Give the smallest side and half of what is left, rounded down."""
    new_side = _smallest(side, min_size)
    return new_side, (side - new_side) // 2


def _smallest(side: int, min_size: float) -> int:
    return max(1, round(side * min_size))


def _integer(low: int, high: int) -> int:
    """Draw one of low, ..., high - 1."""
    return int(torch.randint(low, high, ()))
