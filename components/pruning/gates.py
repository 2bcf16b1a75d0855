"""Beta-Bernoulli gates: sample, expected keep probability, divergence from the prior."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.defences.defended import Defended
from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.models.build import Model
from components.models.dependent_gates import DependentGate, dependent_gates_in
from components.models.gating import PlacedLayer, draw_noise, relax, scale_units
from components.models.tracing import find_units
from components.models.units import Place, Units, note_units, units_of

_PRIOR = 1e-4  # alpha / K of the prior Beta(alpha / K, 1), set directly in the published code
_EULER = 0.5772156649015329
_INITIAL_RAW_B = 0.5413  # b = 1.0000
_FURTHEST_LOGIT = 30.0
_PUBLISHED_BEFORE_NORM, _PUBLISHED = 0.6802, 0.2386  # where raw_a is 2 and -1


class BetaBernoulliGate(nn.Module):
    """Multiplies each unit by how much of it is kept.

    Lee et al., 2018, https://arxiv.org/abs/1805.10896; Madaan et al., 2020,
    https://arxiv.org/abs/1908.04355. Training draws one keep probability per unit for the whole
    batch, from the posterior Kumaraswamy(a, b), and one relaxed Bernoulli per image and unit.
    Evaluation multiplies by the expected keep probability, or by 0 where the unit is closed.
    Differs from the published code: samples in log space, where float32 does not underflow.

    Args:
        units: how many.
        threshold: a unit is open where its expected keep probability is above it.
        initial_keep_probability: expected, of every unit.

    Attributes:
        held: units that count as open whatever their keep probability.
        copies: how many copies of the same images a batch holds, one after the other; they share
            their noise.
        drawn: factors of the forward pass that is under way, between a gate's places.
    """

    def __init__(self, units: int, *, threshold: float, initial_keep_probability: float) -> None:
        super().__init__()
        initial_a = initial_keep_probability / (1 - initial_keep_probability)  # where b = 1
        self.raw_a = nn.Parameter(torch.full((units,), math.log(math.expm1(initial_a))))
        self.raw_b = nn.Parameter(torch.full((units,), _INITIAL_RAW_B))
        self.register_buffer("held", torch.zeros(units, dtype=torch.bool))
        self.held: Tensor
        self.threshold = threshold
        self.copies = 1
        self.drawn: Tensor | None = None

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Give a and b of the Kumaraswamy posterior, per unit."""
        a = functional.softplus(self.raw_a.clamp(min=-10))
        b = functional.softplus(self.raw_b.clamp(min=-10, max=50))
        return a, b

    def kl(self) -> Tensor:
        """Give the divergence of the posterior from the prior, summed over the units.

        With α the prior's first parameter and γ Euler's constant, per unit

            (1 − α/a)·(−γ − ψ(b) − 1/b) + log(a·b/α) − (b − 1)/b
        """
        a, b = self.posterior()
        harmonic = _EULER + torch.digamma(b + 1)  # ψ(b) + 1/b = ψ(b + 1), without cancellation
        return ((_PRIOR / a - 1) * harmonic + (a * b / _PRIOR).log() - 1 + 1 / b).sum()

    def sample(self, batch_size: int) -> Tensor:
        """Draw how much of each unit is kept, per image.

        Raises:
            ValueError: the batch cannot be split into the copies that share noise.
        """
        logit_keep = _draw_logit_keep(*self.posterior())
        noise = draw_noise(batch_size, logit_keep, self.copies)
        return relax(noise + logit_keep).repeat(self.copies, 1)

    def keep_probability(self) -> Tensor:
        """Give the expected keep probability of each unit, b·Γ(1 + 1/a)·Γ(b) / Γ(1 + 1/a + b)."""
        a, b = (parameter.double() for parameter in self.posterior())  # lgamma(1/a) is huge
        logarithm = torch.lgamma(1 + 1 / a) + torch.lgamma(b + 1) - torch.lgamma(1 + 1 / a + b)
        return logarithm.exp().float()

    def is_open(self) -> Tensor:
        """Say of each unit whether it stays when closed units are cut out."""
        return (self.keep_probability() > self.threshold) | self.held

    def mask(self) -> Tensor:
        """Give the factor of each unit in evaluation: its keep probability, 0 if it is closed."""
        return self.keep_probability() * self.is_open()

    def forward(self, features: Tensor) -> Tensor:
        """Gate features of the shape (batch, units) or (batch, units, height, width)."""
        return scale_units(features, self.factors(len(features)), dimension=1)

    def factors(self, batch_size: int) -> Tensor:
        """Give how much of each unit is kept: per image in training, else alike for all."""
        return self.sample(batch_size) if self.training else self.mask().unsqueeze(0)


class GatedLayer(PlacedLayer):
    """A layer with a `BetaBernoulliGate` on its input or its output.

    Args:
        layer: what is gated.
        place: where.
        gate: may act in several places; then all of a forward pass see the same draw.
        is_first: of the gate's places, in which it draws.
        is_last: of the gate's places, after which its draw is forgotten.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        place: Place,
        gate: BetaBernoulliGate,
        *,
        is_first: bool = True,
        is_last: bool = True,
    ) -> None:
        super().__init__(layer, place)
        self.gate, self.is_first, self.is_last = gate, is_first, is_last

    def factors(self, features: Tensor, dimension: int) -> Tensor:  # noqa: ARG002
        """Give what the gate draws, or has drawn at the first of its places."""
        if self.is_first:
            self.gate.drawn = self.gate.factors(len(features))
        factors = self.gate.drawn
        assert factors is not None
        if self.is_last:
            self.gate.drawn = None
        return factors


def gate_model(
    model: Model,
    *,
    threshold: float,
    initial_keep_probability: float | None,
    after_activation: bool = False,
) -> Model:
    """Give a copy of the model with fresh gates.

    LeNet-5 and VGG16 have theirs where they were published. All others have one gate per group of
    channels that belong together, at the inputs of the layers that read these: channels that a
    residual connection joins share one, and the inner channels of each block have one.

    Args:
        model: stays as it is.
        threshold: of the gates.
        initial_keep_probability: of all units; None is as published, 0.6802 where a gate is in
            front of BatchNorm, else 0.2386.
        after_activation: let VGG16 have its gates like all others, so that closed units give
            nothing at all.

    Raises:
        ValueError: no gates fit.
    """
    gated = copy.deepcopy(model)
    backbone = gated.backbone
    units = prunable_units(gated, before_norm=not after_activation)
    for group in units:
        initial = initial_keep_probability
        if initial is None:
            initial = _PUBLISHED_BEFORE_NORM if group.norm else _PUBLISHED
        gate = BetaBernoulliGate(
            group.count, threshold=threshold, initial_keep_probability=initial
        ).to(next(backbone.parameters()).device)
        for place in group.places:
            layer = backbone.get_submodule(place.layer)
            assert isinstance(layer, (nn.Conv2d, nn.Linear))
            first, last = place is group.places[0], place is group.places[-1]
            wrapped = GatedLayer(layer, place, gate, is_first=first, is_last=last)
            backbone.set_submodule(place.layer, wrapped)
    note_units(backbone, units)
    return gated


def prunable_units(model: Model, *, before_norm: bool = True) -> tuple[Units, ...]:
    """Give the units of a model that gates may close.

    Args:
        model: gated or not.
        before_norm: leave VGG16 its published gates.

    Raises:
        ValueError: there are none, or a defence or gates that depend on the image need all units.
    """
    if dependent_gates_in(model.backbone):
        raise ValueError(
            "a model with gates that depend on the image cannot be pruned, for each image needs "
            "other units; prune first and add these gates then"
        )
    network = model.network
    while isinstance(network, Defended):
        if isinstance(network, FeaturePyramidDecoder):
            raise ValueError(
                "a model with a feature_pyramid_decoder cannot be pruned, for its decoder is made "
                "for all channels; prune first and add the decoder then"
            )
        network = network.inner
    return find_units(model.backbone, model.spec.image_shape, before_norm=before_norm)


def gate_widths(model: Model) -> dict[str, int]:
    """Give the number of units by the name of the gate they have or would have."""
    units = units_of(model.backbone) or prunable_units(model)
    return {group.name: group.count for group in units}


def gates_in(model: Model) -> dict[str, BetaBernoulliGate]:
    """Give the gates of a gated model, each by the first layer it acts on, in their order."""
    backbone, found = model.backbone, {}
    for group in units_of(backbone):
        layer = backbone.get_submodule(group.places[0].layer)
        if isinstance(layer, GatedLayer):
            found[group.name] = layer.gate
    return found


def learnt_gates(model: Model) -> dict[str, BetaBernoulliGate] | dict[str, DependentGate]:
    """Give the gates that learn: those of `gates_in`, or those that depend on the image."""
    return gates_in(model) or dependent_gates_in(model.backbone)


def total_kl(
    gates: Mapping[str, BetaBernoulliGate] | Mapping[str, DependentGate],
    scales: Mapping[str, float] | None = None,
) -> Tensor:
    """Sum the gates' divergences from their priors.

    Args:
        gates: by name.
        scales: what some are multiplied by, by the name of the gate. Lee et al. try 40 and 16 for
            the convolutions of LeNet-5, which are few units and most of the operations.

    Raises:
        ValueError: there is no gate of a name.
    """
    scales = scales or {}
    if unknown := sorted(scales.keys() - gates.keys()):
        raise ValueError(f"there are no gates {unknown}, expected some of {list(gates)}")
    return torch.stack([gate.kl() * scales.get(name, 1) for name, gate in gates.items()]).sum()


@contextmanager
def shared_noise(
    gates: Iterable[BetaBernoulliGate | DependentGate], copies: int = 2
) -> Iterator[None]:
    """Let the copies of the same images, one after the other in a batch, see the same gates."""
    gates = list(gates)
    for gate in gates:
        gate.copies = copies
    try:
        yield
    finally:
        for gate in gates:
            gate.copies = 1


def _draw_logit_keep(a: Tensor, b: Tensor) -> Tensor:
    """Draw π = (1 − u^{1/b})^{1/a} with u uniform, and give its logit."""
    # −log u is exponential; the bounds are those of u in [1e-10, 1 − 1e-10].
    surprise = torch.empty_like(b).exponential_().clamp(1e-10, -math.log(1e-10))
    log_keep = _log_one_minus_exp(surprise / b) / a
    log_keep = log_keep.clamp(-_FURTHEST_LOGIT, -math.exp(-_FURTHEST_LOGIT))
    return log_keep - _log_one_minus_exp(-log_keep)


def _log_one_minus_exp(value: Tensor) -> Tensor:
    """Give log(1 − exp(−value)) of positive values, exact near 0 and far from it."""
    near, far = value.clamp(max=math.log(2)), value.clamp(min=math.log(2))
    return torch.where(
        value < math.log(2), torch.log(-torch.expm1(-near)), torch.log1p(-torch.exp(-far))
    )
