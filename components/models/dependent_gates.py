"""Gates that keep each unit by how strongly it answers to the image at hand."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

from components.models.gating import PlacedLayer, draw_noise, relax
from components.models.tracing import find_units
from components.models.units import Place, note_units

_PRIOR_DEVIATION = math.sqrt(5)  # of the shift, in the published code
_INITIAL_SHIFT, _INITIAL_RAW_DEVIATION = 1.0, -5.0  # ours: units that answer as usual stay
_TINY = 1e-7  # probabilities of 0 and 1 have no finite logit


class DependentGate(nn.Module):
    """Says how much of each unit is kept for this image.

    Dependent Beta-Bernoulli dropout, Lee et al., 2018, https://arxiv.org/abs/1805.10896. With m the
    mean of a unit over all places, normalised over images as by BatchNorm, it is kept with the
    probability

        φ = clip(scale · m + shift, 0, 1)

    Training draws one shift per unit for the whole batch, and one relaxed Bernoulli per image and
    unit; its gradient does not reach the features through m. Evaluation takes φ itself, whose
    gradient does, so that an attacker sees all of it.

    Args:
        units: how many.
        block: how many neighbours in a flattened feature belong to each.

    Attributes:
        copies: how many copies of the same images a batch holds, one after the other; they share
            their noise.
    """

    def __init__(self, units: int, *, block: int = 1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(units))
        self.shift = nn.Parameter(torch.full((units,), _INITIAL_SHIFT))
        self.raw_deviation = nn.Parameter(torch.full((units,), _INITIAL_RAW_DEVIATION))
        self.norm = nn.BatchNorm1d(units, affine=False)
        self.block, self.copies = block, 1

    def kl(self) -> Tensor:
        """Give the divergence of the shift's normal posterior from its prior, over all units.

        With η the shift and κ its deviation, per unit log(√5 / κ) + (κ² + η²) / 10 − 1 / 2.
        """
        deviation = functional.softplus(self.raw_deviation)
        spread = (deviation**2 + self.shift**2) / (2 * _PRIOR_DEVIATION**2)
        return ((_PRIOR_DEVIATION / deviation).log() + spread - 0.5).sum()

    def keep_probability(self) -> Tensor:
        """Give the mean of φ over images of which a unit's mean is normally distributed."""
        # E[clip(X, 0, 1)] is the integral of P(X > t) over t from 0 to 1.
        spread = self.scale.abs().clamp(min=_TINY)
        standard = Normal(torch.zeros_like(spread), torch.ones_like(spread))

        def area(level: float) -> Tensor:
            """Give E[max(X − level, 0)]."""
            z = (self.shift - level) / spread
            return (self.shift - level) * standard.cdf(z) + spread * standard.log_prob(z).exp()

        return area(0.0) - area(1.0)

    def forward(self, features: Tensor, dimension: int) -> Tensor:
        """Give how much of each unit is kept, of the shape (batch, units).

        Args:
            features: have images along dimension 0.
            dimension: along which units lie, each a block long.

        Raises:
            ValueError: the batch cannot be split into the copies that share noise.
        """
        inner = features.unflatten(dimension, (-1, self.block)).movedim(dimension, 1)
        means = inner.float().flatten(2).mean(2)
        if not self.training:
            return (self.scale * self.norm(means) + self.shift).clamp(0, 1)
        return self._sample(self.norm(means.detach()))

    def _sample(self, means: Tensor) -> Tensor:
        deviation = functional.softplus(self.raw_deviation)
        shift = self.shift + deviation * torch.randn_like(deviation)
        keep = (self.scale * means + shift).clamp(_TINY, 1 - _TINY)
        noise = draw_noise(len(means), means, self.copies).repeat(self.copies, 1)
        return relax(noise + keep.logit())


class DependentLayer(PlacedLayer):
    """A layer with a `DependentGate` on its input or its output.

    Args:
        layer: what is gated.
        place: where.
        units: how many the gate has.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, place: Place, units: int) -> None:
        super().__init__(layer, place)
        self.gate = DependentGate(units, block=place.block)

    def factors(self, features: Tensor, dimension: int) -> Tensor:
        """Give what the gate makes of the features."""
        return self.gate(features, dimension).to(features.dtype)


def add_dependent_gates(network: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Put fresh gates wherever pruning would have one, each seeing what passes there.

    Args:
        network: is changed, and keeps a note of its units.
        image_shape: channels, height, width.

    Raises:
        ValueError: no gates fit.
    """
    units = find_units(network, image_shape)
    for group in units:
        for place in group.places:
            layer = network.get_submodule(place.layer)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            gated = DependentLayer(layer, place, group.count)
            network.set_submodule(place.layer, gated.to(layer.weight.device))
    note_units(network, units)


def dependent_gates_in(network: nn.Module) -> dict[str, DependentGate]:
    """Give a network's gates by the names of their layers."""
    layers = network.named_modules()
    return {name: part.gate for name, part in layers if isinstance(part, DependentLayer)}
