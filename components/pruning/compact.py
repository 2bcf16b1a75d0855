"""Remove closed units: the result is an ordinary backbone with narrower widths."""

import copy
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from components.models.build import Model
from components.models.lenet import POSITIONS, LeNet5
from components.pruning.gates import BetaBernoulliGate, GatedLayer, prunable_backbone

_ALL = slice(None)


class ClosedLayer(ValueError):
    """A layer none of whose units is open, so that no narrower network exists."""


class _Units(NamedTuple):
    """Indices of a LeNet-5's open units by the layer their gate is on."""

    conv1: Tensor
    conv2: Tensor
    dense3: Tensor
    dense4: Tensor


def compact_model(gated: Model) -> Model:
    """Give the narrower model that decides as the gated one does in evaluation mode.

    The factors of open units are folded into the weights; defences stay as they are.

    Raises:
        ClosedLayer: no unit of some layer is open.
    """
    backbone = _compact_lenet5(prunable_backbone(gated))
    compact = copy.deepcopy(gated, {id(gated.backbone): backbone})  # copies all but the backbone
    choice = {**gated.spec.backbone, "widths": list(backbone.widths)}
    compact.spec = dataclasses.replace(gated.spec, backbone=choice)
    return compact.eval()


@torch.no_grad()
def hold_last_units(gated: Model) -> None:
    """Hold open the likeliest unit of every layer that would close entirely.

    In a layer that has reopened by itself nothing is held any longer.
    """
    backbone = prunable_backbone(gated)
    conv1, conv2, dense3, dense4 = (layer.gate for layer in _gated_layers(backbone).values())
    for gate in (conv1, conv2, dense3, dense4):
        gate.held.zero_()
    for gate in (conv1, dense4):
        gate.held[gate.keep_probability().argmax()] = ~gate.is_open().any()
    channels = backbone.positions // POSITIONS
    likeliest = (conv2.keep_probability()[channels] * dense3.keep_probability()).argmax()
    closed = ~(conv2.is_open()[channels] & dense3.is_open()).any()
    conv2.held[channels[likeliest]] = dense3.held[likeliest] = closed


@torch.no_grad()
def _compact_lenet5(gated: LeNet5) -> LeNet5:
    layers = _gated_layers(gated)
    units = _open_units(gated, [layer.gate for layer in layers.values()])
    cuts: dict[str, tuple[Tensor | slice, Tensor | slice]] = {
        "conv1": (units.conv1, _ALL),
        "conv2": (units.conv2, units.conv1),
        "dense3": (units.dense4, units.dense3),
        "dense4": (_ALL, units.dense4),
    }
    state = {"positions": _renumbered(gated.positions[units.dense3], units.conv2)}
    for name, (outputs, inputs) in cuts.items():
        weight, bias = _folded(layers[name])
        state[f"{name}.weight"] = weight[outputs][:, inputs]
        state[f"{name}.bias"] = bias[outputs]
    return _lenet5_from(state)


def _open_units(gated: LeNet5, gates: list[BetaBernoulliGate]) -> _Units:
    """Find the open units; conv2 and dense3 share theirs, one gates channels, one their positions.

    A position lives only in an open channel, and a channel only where one of its positions lives.
    """
    conv1, conv2, dense3, dense4 = (gate.is_open() for gate in gates)
    channels = gated.positions // POSITIONS
    dense3 = dense3 & conv2[channels]
    conv2 = torch.zeros_like(conv2).index_fill(0, channels[dense3], True)
    units = _Units(*(is_open.nonzero().flatten() for is_open in (conv1, conv2, dense3, dense4)))
    for name, indices in units._asdict().items():
        if not len(indices):
            raise ClosedLayer(f"no unit that the gate of {name} could keep is open")
    return units


def _folded(gated: GatedLayer) -> tuple[Tensor, Tensor]:
    """Multiply the gate's factors into the layer's weights."""
    weight, bias, mask = gated.layer.weight, gated.layer.bias, gated.gate.mask()
    assert bias is not None
    if gated.side == "input":
        return weight * mask, bias
    return weight * mask.view(-1, *(1,) * (weight.ndim - 1)), bias * mask


def _renumbered(positions: Tensor, channels: Tensor) -> Tensor:
    """Say where positions lie once only these channels are left."""
    return torch.searchsorted(channels, positions // POSITIONS) * POSITIONS + positions % POSITIONS


def _lenet5_from(state: dict[str, Tensor]) -> LeNet5:
    """Build the network whose layers have the shapes of these weights."""
    conv1, conv2, dense3 = (state[f"{name}.weight"] for name in ("conv1", "conv2", "dense3"))
    widths = (len(conv1), len(conv2), dense3.shape[1], len(dense3))
    with torch.device("meta"):  # neither computes nor draws the initial weights
        backbone = LeNet5(len(state["dense4.bias"]), conv1.shape[1], widths)
    backbone.load_state_dict(state, assign=True)
    return backbone


def _gated_layers(backbone: LeNet5) -> dict[str, GatedLayer]:
    return {name: p for name, p in backbone.named_children() if isinstance(p, GatedLayer)}
