"""Which units the tensors of a forward pass carry, and which of them belong together."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from components.models.units import Cut, Place, Units


class Group:
    """Channels that belong together, as far as is known.

    Attributes:
        count: how many.
        fixed: no gate fits, because they are used in a way that needs all of them.
        places: where gates act, and when each was met.
        cuts: what belongs to them.
    """

    def __init__(self, count: int) -> None:
        self.count, self.fixed = count, False
        self.places: dict[Place, int] = {}
        self.cuts: dict[Cut, None] = {}
        self._joined: Group | None = None

    def root(self) -> "Group":
        """Give the group that this one has become a part of."""
        return self if self._joined is None else self._joined.root()

    def join(self, other: "Group") -> None:
        """Make one group of both."""
        one, two = self.root(), other.root()
        if one is not two:
            two._joined = one
            one.fixed |= two.fixed or one.count != two.count
            one.places |= two.places
            one.cuts |= two.cuts


class Carried(NamedTuple):
    """Along which dimension of a tensor the units of a group lie, each ``block`` long."""

    dimension: int
    group: Group
    block: int = 1


class Ledger:
    """Notes of one forward pass."""

    def __init__(self, network: nn.Module) -> None:
        named = (*network.named_parameters(), *network.named_buffers())
        self._names = {id(tensor): name for name, tensor in named}
        self._network, self._called = network, set[nn.Module]()
        self._carried: dict[int, Carried | None] = {}
        self._seen: list[Tensor] = []  # kept, so that no other tensor is given the id of one
        self._claims: dict[tuple[str, int], Carried] = {}
        self._blurred: set[str] = set()

    @contextmanager
    def watch_layers(self) -> Iterator[None]:
        """See which layers are called, for a gate would not act where only weights are used."""
        layers = [m for m in self._network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        handles = [
            layer.register_forward_pre_hook(lambda layer, _: self._called.add(layer))
            for layer in layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def check_known(self, tensors: list[Tensor], name: str) -> None:
        """Refuse tensors that came from nowhere.

        Raises:
            ValueError: one did, so that it may carry units nobody knows of.
        """
        for tensor in tensors:
            if id(tensor) not in self._carried and id(tensor) not in self._names:
                raise ValueError(
                    f"no gates fit {type(self._network).__name__}: a tensor it gives to {name!r} "
                    "is no parameter, no buffer and nothing that was seen to be computed"
                )

    def note(self, tensor: Tensor, carried: Carried | None) -> None:
        """Write down what a new tensor carries."""
        self._carried[id(tensor)] = carried
        self._seen.append(tensor)

    def carried(self, tensor: Tensor) -> Carried | None:
        """Give what a tensor carries."""
        return self._carried.get(id(tensor))

    def layer_of(self, weight: Tensor) -> str | None:
        """Give the name of the layer with this weight, None if no gate can act at one."""
        path, _, name = self._names.get(id(weight), "").rpartition(".")
        layer = self._network.get_submodule(path)
        known = name == "weight" and isinstance(layer, (nn.Conv2d, nn.Linear))
        return path if known and layer in self._called else None

    def fix(self, tensor: Tensor) -> None:
        """Keep all units that a tensor carries, or that lie along it if it is a parameter."""
        units = self.carried(tensor)
        if units:
            units.group.root().fixed = True
        if id(tensor) in self._names:
            self._blurred.add(self._names[id(tensor)])

    def claim(self, units: Carried, *tensors: Tensor | None, dimension: int = 0) -> None:
        """Say that units lie along a dimension of parameters or buffers."""
        for tensor in tensors:
            if tensor is None:
                continue
            if id(tensor) not in self._names:
                units.group.root().fixed = True
                continue
            name = self._names[id(tensor)]
            known = self._claims.setdefault((name, dimension), units)
            known.group.join(units.group)
            group = units.group.root()
            group.fixed |= known.block != units.block
            group.cuts[Cut(name, dimension, units.block)] = None

    def pass_layer(
        self,
        layer: str,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        dimension: int,
    ) -> Carried:
        """Let a layer read units and give new ones along the same dimension."""
        units = self.carried(features)
        if units is None or units.dimension != dimension:
            self.fix(features)
            units = Carried(dimension, Group(weight.shape[1]))
            units.group.fixed = True
        self.claim(units, weight, dimension=1)
        units.group.root().places.setdefault(Place(layer, "input", units.block), len(self._seen))
        given = Carried(dimension, Group(weight.shape[0]))
        self.claim(given, weight, bias)
        return given

    def units(self) -> tuple[Units, ...]:
        """Give the groups that are free to be gated, in the order in which they are read."""
        for (name, _), units in self._claims.items():
            units.group.root().fixed |= name in self._blurred
        roots = {id(root): root for root in (u.group.root() for u in self._claims.values())}
        free = [group for group in roots.values() if group.places and not group.fixed]
        found = []
        for group in sorted(free, key=lambda group: min(group.places.values())):
            places = sorted(group.places, key=group.places.__getitem__)
            found.append(Units(places[0].layer, group.count, tuple(places), tuple(group.cuts)))
        return tuple(found)
