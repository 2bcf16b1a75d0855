"""What gates have in common: a layer's place to act at, shared noise, and scaled units."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from components.models.units import Place

_TEMPERATURE = 0.1


class PlacedLayer(nn.Module):
    """A layer with a gate on its input or its output.

    Args:
        layer: what is gated.
        place: where.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, place: Place) -> None:
        super().__init__()
        self.layer, self.place = layer, place

    def forward(self, features: Tensor) -> Tensor:
        """Apply gate and layer in their order."""
        if self.place.side == "input":
            return self.layer(self._gated(features))
        return self._gated(self.layer(features))

    def _gated(self, features: Tensor) -> Tensor:
        dimension = 1 if isinstance(self.layer, nn.Conv2d) else features.ndim - 1
        factors = self.factors(features, dimension).repeat_interleave(self.place.block, 1)
        return scale_units(features, factors, dimension=dimension)

    @abstractmethod
    def factors(self, features: Tensor, dimension: int) -> Tensor:
        """Give how much of each unit is kept, of the shape (batch or 1, units)."""


def scale_units(features: Tensor, factors: Tensor, *, dimension: int) -> Tensor:
    """Multiply units along a dimension by factors of the shape (batch or 1, units)."""
    shape = [1] * features.ndim
    shape[0], shape[dimension] = factors.shape
    return features * factors.view(shape)


def draw_noise(batch_size: int, like: Tensor, copies: int) -> Tensor:
    """Draw what decides whether units stay, for one of the copies of the images in a batch.

    Args:
        batch_size: images in the batch.
        like: has the units along its last dimension, and the device.
        copies: how many copies of the same images there are, one after the other.

    Raises:
        ValueError: the batch cannot be split into so many copies.
    """
    if batch_size % copies:
        raise ValueError(f"{batch_size} images are not {copies} copies of fewer images")
    uniform = torch.rand(batch_size // copies, like.shape[-1], device=like.device)
    return uniform.logit(eps=1e-7)


def relax(logits: Tensor) -> Tensor:
    """Give relaxed Bernoulli draws, of what `draw_noise` gave plus the logit of keeping a unit."""
    return torch.sigmoid(logits / _TEMPERATURE)
