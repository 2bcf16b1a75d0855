"""ADMM: weights drawn towards their sparse image by alternating directions, under attack."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from components.attacks import ATTACKS
from components.choose import choose
from components.models.build import Model
from components.models.units import Place
from components.pruning.compact import compact_model, hold_last_units
from components.pruning.config import PruningConfig
from components.pruning.gates import GatedLayer, gate_model, gates_in
from components.pruning.measures import zero_weights
from components.pruning.steps import craft, cross_entropies, mixed_loss, set_rates
from components.tensors import Images, Targets, best_device

_WIDE_OPEN, _CLOSED = 1e9, -10.0  # raw parameters of keep probabilities 1, exactly, and 0


@dataclass(frozen=True, eq=False)
class _Part:
    """A layer to prune: weight by weight, or by the units at a gate's place."""

    layer: nn.Conv2d | nn.Linear
    place: Place | None = None

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    def scores(self, value: Tensor) -> Tensor:
        """Give the squared size of each weight or unit, of a tensor of the weight's shape."""
        if self.place is None:
            return value.square().flatten()
        others = [dimension for dimension in range(value.ndim) if dimension != self._dimension]
        return value.square().sum(others).view(-1, self.place.block).sum(1)

    def mask(self, kept: Tensor) -> Tensor:
        """Bring what is kept into a shape that multiplies the weight."""
        if self.place is None:
            return kept.view_as(self.weight)
        shape = [1] * self.weight.ndim
        shape[self._dimension] = -1
        return kept.repeat_interleave(self.place.block).view(shape)

    def cut(self, mask: Tensor) -> None:
        """Set to zero what is not kept; of a unit on the output side, the bias as well."""
        self.weight.mul_(mask)
        if self.place and self.place.side == "output" and self.layer.bias is not None:
            self.layer.bias.mul_(mask.flatten())

    @property
    def num_units(self) -> int:
        assert self.place is not None
        return self.weight.shape[self._dimension] // self.place.block

    @property
    def _dimension(self) -> int:
        return 0 if self.place and self.place.side == "output" else 1


class AdmmPruning:
    """Prunes the same share of every layer, by magnitude, and fine-tunes what is left.

    Ye et al., 2019, https://arxiv.org/abs/1903.12561, around the adversarial training of Madaan et
    al., 2020, https://arxiv.org/abs/1908.04355, whose code has no such baseline: the settings are
    ours. With weights W, sparse Z and scaled dual U of each layer, at the start Z the sparse image
    of W and U = 0,

        W   descends the mixed loss + ρ/2 ‖W − Z + U‖²
        Z   keeps the largest of |W + U|
        U   becomes U + W − Z

    and Z and U are renewed some times, at equal intervals. Then what Z has as zero is cut off, and
    training goes on without it.

    Args:
        model: trained.
        settings: how.
        num_images: in the training split.
        batches: in an epoch.
        structure: ``weights`` leaves zeros wherever weights were small, so the model becomes
            sparse, but neither smaller nor faster. ``units`` prunes all weights of a unit that
            gates could close, by their norm, and the model becomes narrower.
        sparsity: share of a layer's weights or units that are pruned, in (0, 1).
        penalty: ρ.
        renewals: of Z and U.
        tuning_share: of all steps that are taken after the cut, in (0, 1).

    Attributes:
        model: a copy, on the device to train on.

    Raises:
        ValueError: a number is out of range, or no gates fit the backbone whose units should go.
    """

    def __init__(
        self,
        model: Model,
        settings: PruningConfig,
        num_images: int,  # noqa: ARG002  what every method is given
        batches: int,
        *,
        structure: Literal["weights", "units"] = "weights",
        sparsity: float = 0.8,
        penalty: float = 1e-2,
        renewals: int = 10,
        tuning_share: float = 0.4,
    ) -> None:
        if not (0 < sparsity < 1 and 0 < tuning_share < 1 and penalty >= 0 and renewals >= 1):
            raise ValueError(
                "sparsity and tuning_share must lie between 0 and 1, penalty be at least 0 and "
                f"renewals at least 1, got {sparsity}, {tuning_share}, {penalty}, {renewals}"
            )
        self._settings, self._total = settings, settings.epochs * batches
        self._attack = settings.attack and choose(ATTACKS, settings.attack, given=("seed",))
        self._structure, self._sparsity, self._penalty = structure, sparsity, penalty
        self._cut_at = round((1 - tuning_share) * self._total)
        self._interval = max(1, self._cut_at // renewals)
        self.model = copy.deepcopy(model).to(best_device())
        self._groups = _groups(self.model, structure)
        self._parts = [part for group in self._groups for part in group]
        self._optimizer = self._fresh_optimizer()
        self._dual = [torch.zeros_like(part.weight) for part in self._parts]
        masks = self._kept(self._shifted())
        self._sparse = [
            (p.weight * mask).detach() for p, mask in zip(self._parts, masks, strict=True)
        ]
        self._masks: list[Tensor] = []

    def step(self, images: Images, targets: Targets, number: int) -> dict[str, Tensor]:
        """Take one step of the weights, and what else is due.

        Args:
            images: float32 in [0, 1].
            targets: class probabilities.
            number: steps so far.

        Returns:
            ``clean_loss``, ``adversarial_loss`` where something attacks, and ``distance``, the sum
            of ‖W − Z‖² over the layers before the cut.
        """
        settings = self._settings
        if number >= self._cut_at and not self._masks:
            self._cut()
        set_rates([(self._optimizer, settings.learning_rate)], settings, number, self._total)
        attacked = None
        if self._attack:
            attacked = craft(self._attack, self.model, images, targets, settings, number)
        after = None if attacked is None else self.model(attacked)
        losses = cross_entropies(self.model(images), after, targets)
        loss = mixed_loss(losses)
        if not self._masks:
            loss = loss + self._penalty / 2 * self._tension()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if self._masks:
            self._apply_masks()
        elif (number + 1) % self._interval == 0:
            self._renew()
        return {**losses, "distance": self._distance()}

    def curves(self) -> dict[str, float]:
        """Give the share of weights that are zero."""
        return {"zero_weights": zero_weights(self.model)}

    def note(self) -> str:
        """Say in a few words how far it is."""
        return "fine-tuning" if self._masks else "drawing weights together"

    def state(self) -> dict[str, Any]:
        """Give all that decides how it goes on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "sparse": self._sparse,
            "dual": self._dual,
            "masks": self._masks,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        device = best_device()
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._sparse = [value.to(device) for value in state["sparse"]]
        self._dual = [value.to(device) for value in state["dual"]]
        self._masks = [value.to(device) for value in state["masks"]]

    def keep_probabilities(self) -> dict[str, list[float]]:
        """Give nothing: there are no gates."""
        return {}

    def finish(self) -> tuple[Model, Model]:
        """Give the model with its zeros, and the narrower one where whole units are zero."""
        if not self._masks:
            self._cut()
        model = self.model.cpu().eval()
        if self._structure == "weights":
            return model, model
        gated = gate_model(model, threshold=0.5, initial_keep_probability=0.5).eval()
        with torch.no_grad():
            scores = self._scores([part.weight for part in self._parts])
            for gate, score in zip(gates_in(gated).values(), scores, strict=True):
                gate.raw_a.copy_(torch.where(score > 0, _WIDE_OPEN, _CLOSED))
        hold_last_units(gated)
        return model, compact_model(gated)

    def _fresh_optimizer(self) -> Adam:
        settings = self._settings
        weights = self.model.parameters()
        return Adam(weights, settings.learning_rate, weight_decay=settings.weight_decay)

    def _tension(self) -> Tensor:
        states = zip(self._parts, self._sparse, self._dual, strict=True)
        return torch.stack([(p.weight - z + u).square().sum() for p, z, u in states]).sum()

    @torch.no_grad()
    def _distance(self) -> Tensor:
        states = zip(self._parts, self._sparse, strict=True)
        return torch.stack([(p.weight - z).square().sum() for p, z in states]).sum()

    @torch.no_grad()
    def _renew(self) -> None:
        """Take the steps of Z and U."""
        shifted = self._shifted()
        states = zip(shifted, self._kept(shifted), strict=True)
        self._sparse = [value * mask for value, mask in states]
        self._dual = [v - z for v, z in zip(shifted, self._sparse, strict=True)]

    @torch.no_grad()
    def _cut(self) -> None:
        """Cut off what is not among the largest of W + U, and forget the momentum of the rest."""
        self._masks = self._kept(self._shifted())
        self._apply_masks()
        self._optimizer = self._fresh_optimizer()

    def _shifted(self) -> list[Tensor]:
        return [p.weight + u for p, u in zip(self._parts, self._dual, strict=True)]

    def _kept(self, values: list[Tensor]) -> list[Tensor]:
        """Give masks of the largest weights or units; of each layer stays at least one."""
        masks = []
        for group, scores in zip(self._groups, self._scores(values), strict=True):
            kept = torch.zeros_like(scores, dtype=torch.bool)
            count = max(1, round((1 - self._sparsity) * len(scores)))
            kept[scores.topk(count).indices] = True
            masks += [part.mask(kept) for part in group]
        return masks

    def _scores(self, values: list[Tensor]) -> list[Tensor]:
        """Give the squared size of all weights or units, group by group."""
        left = iter(values)
        return [
            torch.stack([part.scores(next(left)) for part in group]).sum(0)
            for group in self._groups
        ]

    @torch.no_grad()
    def _apply_masks(self) -> None:
        for part, mask in zip(self._parts, self._masks, strict=True):
            part.cut(mask)


def _groups(model: Model, structure: str) -> list[list[_Part]]:
    """Give the layers to prune; those that share their units, as gates would, go together.

    Raises:
        ValueError: units are asked for, and no gates fit the backbone, or not as whole rows and
            columns of weights.
    """
    if structure == "weights":
        layers = model.backbone.modules()
        return [[_Part(layer)] for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    gated = gate_model(model, threshold=0.5, initial_keep_probability=0.5)
    groups = []
    for gate in gates_in(gated).values():
        group = [
            _Part(cast("nn.Conv2d | nn.Linear", model.backbone.get_submodule(name)), part.place)
            for name, part in gated.backbone.named_modules()
            if isinstance(part, GatedLayer) and part.gate is gate
        ]
        if any(part.num_units != len(gate.raw_a) for part in group):
            raise ValueError("admm prunes units that are whole rows or columns of weights")
        groups.append(group)
    return groups
