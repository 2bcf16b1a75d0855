"""Random resize-pad: every forward pass sees the image at another size and place."""

import torch
from torch import nn
from torch.nn import functional

from components.defences.defended import Defended, honest_view
from components.tensors import Classifier, Images, Logits


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
    """

    def __init__(
        self, inner: nn.Module, *, min_size: float = 0.85, train_only: bool = False
    ) -> None:
        super().__init__(inner)
        if not 0 < min_size <= 1:
            raise ValueError(f"min_size must be above 0 and at most 1, got {min_size}")
        self.min_size, self.train_only = min_size, train_only
        self.randomised = not train_only and min_size < 1

    def forward(self, images: Images) -> Logits:
        """Classify, with one draw of size and place for the whole batch."""
        if self.train_only and not self.training:
            return self.inner(images)
        return self.inner(self._resize_and_pad(images))

    def honest_view(self, draws: int) -> Classifier:
        """Average log-probabilities over draws, so that gradients point where most draws do."""
        inner = honest_view(self.inner, draws=draws)
        if not self.randomised:
            return inner

        def view(images: Images) -> Logits:
            drawn = [inner(self._resize_and_pad(images)) for _ in range(draws)]
            return torch.stack([logits.log_softmax(1) for logits in drawn]).mean(0)

        return view

    def _resize_and_pad(self, images: Images) -> Images:
        height, width = images.shape[-2:]
        new_height, top = _draw(height, self.min_size)
        new_width, left = _draw(width, self.min_size)
        smaller = functional.interpolate(images, size=(new_height, new_width), mode="nearest")
        right, bottom = width - new_width - left, height - new_height - top
        return functional.pad(smaller, (left, right, top, bottom))


def _draw(side: int, min_size: float) -> tuple[int, int]:
    """Draw a new side uniformly and an offset uniformly among those that fit it."""
    smallest = max(1, round(side * min_size))
    new_side = int(torch.randint(smallest, side + 1, ()))
    return new_side, int(torch.randint(0, side - new_side + 1, ()))
