"""Beta-Bernoulli gates: sample, expected keep probability, divergence from the prior."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.build import Model
from components.models.lenet import LeNet5

_PRIOR = 1e-4  # alpha / K of the prior Beta(alpha / K, 1), set directly in the published code
_TEMPERATURE = 0.1
_EULER = 0.5772156649015329
_INITIAL_RAW_B = 0.5413  # b = 1.0000
_FURTHEST_LOGIT = 30.0


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
        if batch_size % self.copies:
            raise ValueError(f"{batch_size} images are not {self.copies} copies of fewer images")
        logit_keep = _draw_logit_keep(*self.posterior())
        uniform = torch.rand(batch_size // self.copies, len(logit_keep), device=logit_keep.device)
        relaxed = torch.sigmoid((uniform.logit(eps=1e-7) + logit_keep) / _TEMPERATURE)
        return relaxed.repeat(self.copies, 1)

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
        kept = self.sample(len(features)) if self.training else self.mask().unsqueeze(0)
        return features * kept.view(*kept.shape, *(1,) * (features.ndim - 2))


class GatedLayer(nn.Module):
    """A layer with a gate on its input or its output."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, side: str, gate: BetaBernoulliGate) -> None:
        super().__init__()
        self.layer, self.side, self.gate = layer, side, gate

    def forward(self, features: Tensor) -> Tensor:
        """Apply gate and layer in their order."""
        if self.side == "input":
            return self.layer(self.gate(features))
        return self.gate(self.layer(features))


def gate_model(model: Model, *, threshold: float, initial_keep_probability: float) -> Model:
    """Give a copy of the model with fresh gates wherever its backbone says they go.

    Raises:
        ValueError: the backbone does not say it.
    """
    gated = copy.deepcopy(model)
    backbone = prunable_backbone(gated)
    for name, side in backbone.gate_points:
        layer = backbone.get_submodule(name)
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        units = layer.weight.shape[0 if side == "output" else 1]
        gate = BetaBernoulliGate(
            units, threshold=threshold, initial_keep_probability=initial_keep_probability
        )
        setattr(backbone, name, GatedLayer(layer, side, gate.to(layer.weight.device)))
    return gated


def prunable_backbone(model: Model) -> LeNet5:
    """Give the model's backbone if it says where gates go.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(model.backbone, LeNet5):
        name = model.spec.backbone["name"]
        raise ValueError(f"gates fit the backbone 'lenet5' and no other, got {name!r}")
    return model.backbone


def gates_in(model: Model) -> dict[str, BetaBernoulliGate]:
    """Give the gates of a gated model by the names of their layers, in the network's order."""
    parts = model.backbone.named_modules()
    return {name: part.gate for name, part in parts if isinstance(part, GatedLayer)}


def total_kl(gates: Mapping[str, BetaBernoulliGate]) -> Tensor:
    """Sum the gates' divergences from their priors."""
    return torch.stack([gate.kl() for gate in gates.values()]).sum()


@contextmanager
def shared_noise(gates: Iterable[BetaBernoulliGate], copies: int = 2) -> Iterator[None]:
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
