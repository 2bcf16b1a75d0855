"""Remove closed units: the result is an ordinary backbone with narrower widths."""

import copy
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from components.models.build import Model
from components.models.lenet import POSITIONS, LeNet5
from components.pruning.gates import BetaBernoulliGate, gates_in


class ClosedLayer(ValueError):
    """A layer all of whose units are closed, so that no narrower network exists."""


class _Units(NamedTuple):
    """Indices of LeNet-5's open units, in the order of its widths."""

    conv1: Tensor
    conv2: Tensor
    flat: Tensor
    dense: Tensor


def compact_model(gated: Model) -> Model:
    """Give the narrower model that decides as the gated one does in evaluation mode.

    Factors of open units are folded into the weights. Defences are kept.

    Raises:
        ClosedLayer: no unit of some layer is open.
    """
    backbone = compact_lenet5(gated.backbone)
    compact = copy.deepcopy(gated, {id(gated.backbone): backbone})  # all but the backbone is copied
    choice = {**gated.spec.backbone, "widths": list(backbone_widths(backbone))}
    compact.spec = dataclasses.replace(gated.spec, backbone=choice)
    return compact.eval()


@torch.no_grad()
def compact_lenet5(gated: nn.Module) -> LeNet5:
    """Fold and cut a gated LeNet-5.

    A channel of conv2 lives only where its own gate is open and at least one of its positions is
    read through an open gate of dense3.

    Raises:
        ClosedLayer: no unit of some layer is open.
    """
    assert isinstance(gated, LeNet5)
    conv1, conv2, dense3, dense4 = (gated.get_submodule(name) for name, _ in gated.gate_points)
    masks = [part.gate.mask() for part in (conv1, conv2, dense3, dense4)]
    units = _open_units(masks, gated.positions)
    weights = {
        "conv1.weight": _scaled(conv1.layer.weight, masks[0])[units.conv1],
        "conv1.bias": (conv1.layer.bias * masks[0])[units.conv1],
        "conv2.weight": _scaled(conv2.layer.weight, masks[1])[units.conv2][:, units.conv1],
        "conv2.bias": (conv2.layer.bias * masks[1])[units.conv2],
        "dense3.weight": (dense3.layer.weight * masks[2])[units.dense][:, units.flat],
        "dense3.bias": dense3.layer.bias[units.dense],
        "dense4.weight": (dense4.layer.weight * masks[3])[:, units.dense],
        "dense4.bias": dense4.layer.bias,
        "positions": _renumbered(gated.positions[units.flat], units.conv2),
    }
    return _lenet5_of(weights)
