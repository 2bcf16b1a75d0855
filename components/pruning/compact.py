"""Remove closed units: the result is an ordinary backbone with narrower widths."""

import copy
import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn

from components.models.build import Model
from components.models.units import Units, cut_units, note_units, units_of
from components.pruning.gates import GatedLayer, gates_in


class ClosedLayer(ValueError):
    """A layer none of whose units is open, so that no narrower network exists."""


@torch.no_grad()
def compact_model(gated: Model) -> Model:
    """Give the narrower model that decides as the gated one does in evaluation mode.

    The factors of open units are folded into the weights; defences stay as they are. Where a closed
    unit still gives a constant behind BatchNorm, so does one unit of the narrower network for all
    of them, which is exact also where the next convolution pads.

    Raises:
        ClosedLayer: no unit of some layer is open.
    """
    units = units_of(gated.backbone)
    open_units = _open_units(gated)
    compact = copy.deepcopy(gated).eval()
    backbone = compact.backbone
    _fold_gates(backbone)
    for group in units:
        if group.norm:
            open_units[group.name] |= _keep_constants(backbone, group, ~open_units[group.name])
    kept = {name: is_open.nonzero().flatten() for name, is_open in open_units.items()}
    for name, indices in kept.items():
        if not len(indices):
            raise ClosedLayer(f"no unit that the gate of {name} could keep is open")
    _describe(compact, cut_units(backbone, units, kept))
    return compact


@torch.no_grad()
def hold_last_units(gated: Model) -> None:
    """Hold open the likeliest unit of every layer that would close entirely.

    In a layer that has reopened by itself nothing is held any longer.
    """
    gates = gates_in(gated)
    for gate in gates.values():
        gate.held.zero_()
    divided = set()
    for group in units_of(gated.backbone):
        if group.whole:
            part, whole = gates[group.name], gates[group.whole.name]
            belongs = group.wholes(gated.backbone)
            likeliest = (whole.keep_probability()[belongs] * part.keep_probability()).argmax()
            closed = ~(whole.is_open()[belongs] & part.is_open()).any()
            whole.held[belongs[likeliest]] = part.held[likeliest] = closed
            divided |= {group.name, group.whole.name}
    for name, gate in gates.items():
        if name not in divided:
            gate.held[gate.keep_probability().argmax()] = ~gate.is_open().any()


def _open_units(gated: Model) -> dict[str, Tensor]:
    """Say which units are open. A part is in an open whole, and a whole has an open part."""
    gates = gates_in(gated)
    is_open = {name: gate.is_open() for name, gate in gates.items()}
    for group in units_of(gated.backbone):
        if group.whole:
            belongs = group.wholes(gated.backbone)
            parts = is_open[group.name] & is_open[group.whole.name][belongs]
            wholes = torch.zeros_like(is_open[group.whole.name])
            is_open[group.name] = parts
            is_open[group.whole.name] = wholes.index_fill(0, belongs[parts], True)
    return is_open


def _fold_gates(backbone: nn.Module) -> None:
    """Multiply the gates' factors into the layers' weights, and take the gates out."""
    gated = [(name, p) for name, p in backbone.named_modules() if isinstance(p, GatedLayer)]
    for name, part in gated:
        layer, mask = part.layer, part.gate.mask()
        shape = (-1, *(1,) * (layer.weight.ndim - 1))
        if part.place.side == "output":
            layer.weight.mul_(mask.view(shape))
            if layer.bias is not None:
                layer.bias.mul_(mask)
        else:
            layer.weight.mul_(mask.repeat_interleave(part.place.block).view(shape[:-1]))
        backbone.set_submodule(name, layer)


def _keep_constants(backbone: nn.Module, group: Units, closed: Tensor) -> Tensor:
    """Let one closed unit give 1, and the reader weigh it as it weighed what all of them give.

    With β, γ, μ, σ² those of BatchNorm, a closed unit gives ReLU(β − γμ / √(σ² + ε)) everywhere,
    but for the margin that the next convolution pads with zeros. A dense layer adds it to its bias.

    Returns:
        Which of the units has to stay for it, if any.
    """
    carries = torch.zeros_like(closed)
    norm = backbone.get_submodule(group.norm)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    constants = (norm.bias - scale * norm.running_mean).relu() * closed
    (name,) = (cut.tensor.rpartition(".")[0] for cut in group.cuts if cut.dimension == 1)
    reader, layer = backbone.get_submodule(name), backbone.get_submodule(group.places[0].layer)
    assert isinstance(reader, (nn.Conv2d, nn.Linear)) and isinstance(layer, nn.Conv2d)
    weighed = torch.tensordot(reader.weight, constants, dims=([1], [0]))
    if isinstance(reader, nn.Linear):
        reader.bias.add_(weighed)
    elif weighed.any():
        carries[closed.nonzero()[0]] = True
        reader.weight[:, carries] = weighed.unsqueeze(1)
        assert layer.bias is not None
        for tensor, value in (
            (layer.weight, 0),
            (layer.bias, 0),
            (norm.weight, 0),
            (norm.bias, 1),
            (norm.running_mean, 0),
            (norm.running_var, 1),
        ):
            tensor[carries] = value
    return carries


def _describe(compact: Model, left: tuple[Units, ...]) -> None:
    """Let the model's words be those of its narrower backbone."""
    backbone = compact.backbone
    if hasattr(backbone, "declare_units"):
        del backbone.units
        words: dict[str, Any] = {"widths": list(cast("tuple[int, ...]", backbone.widths))}
    else:
        note_units(backbone, left)
        words = {"units": {group.name: group.count for group in left}}
    compact.spec = dataclasses.replace(compact.spec, backbone={**compact.spec.backbone, **words})
