"""Units of a network that live and die together, and the network with fewer of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]


class Place(NamedTuple):
    """Where a gate acts.

    Attributes:
        layer: name of a convolution or dense layer.
        side: of that layer.
        block: how many neighbours there belong to each unit, after a feature map was flattened.
    """

    layer: str
    side: Side
    block: int = 1


class Cut(NamedTuple):
    """A dimension of a parameter or buffer along which the units lie, each ``block`` long."""

    tensor: str
    dimension: int
    block: int = 1


class Whole(NamedTuple):
    """What units are parts of.

    Attributes:
        name: of the larger units, of each of which these are a part.
        parts: how many parts each of those had at first.
        numbers: buffer that numbers the parts there are; empty where each has its one part.
    """

    name: str
    parts: int = 1
    numbers: str = ""


@dataclass(frozen=True)
class Units:
    """Units that only make sense together, such as channels that an addition joins.

    Attributes:
        name: of the first layer at which their gate acts.
        count: how many.
        places: where their gate acts, in the order of a forward pass. With all those closed to a
            unit, nothing of it reaches the logits, but for what `norm` says.
        cuts: what belongs to them.
        norm: BatchNorm between gate and ReLU, through which a closed unit still gives a constant.
        whole: what these are parts of. A part lives only in a living whole, and a whole only as
            long as one of its parts lives.
    """

    name: str
    count: int
    places: tuple[Place, ...]
    cuts: tuple[Cut, ...]
    norm: str = ""
    whole: Whole | None = None

    def wholes(self, network: nn.Module) -> Tensor:
        """Give the index of the larger unit that each of these is a part of."""
        assert self.whole is not None
        if not self.whole.numbers:
            return torch.arange(self.count, device=next(network.parameters()).device)
        return network.get_buffer(self.whole.numbers) // self.whole.parts


def units_of(network: nn.Module) -> tuple[Units, ...]:
    """Give the units that a gated or a narrowed network keeps a note of."""
    return cast("tuple[Units, ...]", getattr(network, "units", ()))


def note_units(network: nn.Module, units: tuple[Units, ...]) -> None:
    """Let a network keep a note of its units, so that they keep their names."""
    network.units = units  # type: ignore[assignment]


@torch.no_grad()
def cut_units(
    network: nn.Module, units: tuple[Units, ...], kept: Mapping[str, Tensor]
) -> tuple[Units, ...]:
    """Leave a network nothing but some of its units, and give the units there are then.

    Args:
        network: is changed.
        units: all of it.
        kept: indices of those to keep, in ascending order, by the names of the units.
    """
    for group in units:
        if group.whole and group.whole.numbers:
            _renumber(network, group.whole, kept[group.name], kept[group.whole.name])
    cuts = [(cut, kept[group.name]) for group in units for cut in group.cuts]
    for cut, indices in sorted(cuts, key=lambda each: each[0]):
        path, _, name = cut.tensor.rpartition(".")
        layer = network.get_submodule(path)
        old = getattr(layer, name)
        inside = torch.arange(cut.block, device=old.device)
        places = (indices[:, None] * cut.block + inside).flatten()
        new = old[(slice(None),) * cut.dimension + (places,)]
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        setattr(layer, name, new)
        _fit(layer)
    return tuple(replace(group, count=len(kept[group.name])) for group in units)


def check_narrowable(network: nn.Module) -> None:
    """Refuse numbers of units for a network that is built with fewer of them.

    Raises:
        ValueError: its widths say how many there are.
    """
    if hasattr(network, "declare_units"):
        raise ValueError(
            f"units fit no {type(network).__name__}, of which pruning leaves narrower widths; give "
            "those as widths"
        )


def narrow(network: nn.Module, units: tuple[Units, ...], counts: Mapping[str, int]) -> None:
    """Leave a network so many of its units, whichever, and let it keep a note of them.

    Raises:
        ValueError: the names are not those of the units, or there are not so many, or the network
            is narrowed by its widths.
    """
    check_narrowable(network)
    full = {group.name: group.count for group in units}
    if counts.keys() != full.keys():
        wrong = sorted(counts.keys() ^ full.keys())
        raise ValueError(f"units must name {sorted(full)}, each once; {wrong} differ")
    for name, count in counts.items():
        if not 1 <= count <= full[name]:
            raise ValueError(f"units of {name} must be in [1, {full[name]}], got {count}")
    kept = {name: torch.arange(count) for name, count in counts.items()}
    note_units(network, cut_units(network, units, kept))


def _fit(layer: nn.Module) -> None:
    """Let a layer's numbers say what the shapes of its tensors are."""
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, inputs = layer.weight.shape[:2]
        layer.groups = layer.out_channels if layer.groups > 1 else 1
        layer.in_channels = inputs * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and layer.running_mean is not None:
        layer.num_features = len(layer.running_mean)


def _renumber(network: nn.Module, whole: Whole, parts: Tensor, wholes: Tensor) -> None:
    """Say where parts lie once only these wholes are left."""
    numbers = network.get_buffer(whole.numbers)[parts]
    unit = torch.searchsorted(wholes, numbers // whole.parts)
    path, _, name = whole.numbers.rpartition(".")
    setattr(network.get_submodule(path), name, unit * whole.parts + numbers % whole.parts)
