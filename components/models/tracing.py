"""Find units that live and die together by following images through a network."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from components.models.ledger import Carried, Ledger
from components.models.units import Units, units_of


def find_units(
    network: nn.Module, image_shape: Sequence[int], *, before_norm: bool = True
) -> tuple[Units, ...]:
    """Find the units that gates may close, each group with a gate wherever it is read.

    A group is all channels that additions, products, normalisation per channel and depthwise
    convolutions tie together. Layers that read it get their gates at their input, so that what a
    closed unit gives is never seen, whatever happened to it before. What cannot be followed, such
    as LayerNorm over the channels, their concatenation or attention, leaves its channels ungated.

    Args:
        network: from images to logits.
        image_shape: channels, height, width.
        before_norm: follow a network that declares its published gates in front of BatchNorm.

    Raises:
        ValueError: nothing is left that gates fit, or the network hides what it computes.
    """
    if noted := units_of(network):  # gated or narrowed, and its units keep their names
        return noted
    if hasattr(network, "declare_units"):
        declared = cast("tuple[Units, ...]", cast("Any", network).declare_units())
        if before_norm or not any(group.norm for group in declared):
            return declared
    modes = {module: module.training for module in network.modules()}
    # Two images, so that their axis is not mistaken for the axis of a single unit.
    images = next(network.parameters()).new_zeros(2, *image_shape)
    ledger = Ledger(network)
    ledger.note(images, None)
    try:
        with torch.no_grad(), ledger.watch_layers(), _Tracer(ledger):
            logits = network.eval()(images)
    finally:
        for module, mode in modes.items():
            module.training = mode
    ledger.check_known([logits], "the caller")
    ledger.fix(logits)
    units = ledger.units()
    if not units:
        raise ValueError(f"no gates fit {type(network).__name__}: all its channels are inseparable")
    return units


class _Tracer(TorchFunctionMode):
    """Writes down of every tensor that is computed which units it carries."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        before = [tensor.shape for tensor in _tensors((args, options))]
        output = func(*args, **options)
        name = getattr(func, "__name__", "")
        if name == "__get__":  # of a property
            name = func.__self__.__name__  # type: ignore[attr-defined]
        inputs, outputs = _tensors((args, options)), _tensors(output)
        if not outputs and name in _QUESTIONS:
            return output
        self.ledger.check_known(inputs, name)
        rule, carried = _RULES.get(name), None
        # A rule is about tensors that keep their shapes, and about one result.
        same = before == [tensor.shape for tensor in inputs]
        if rule and same and isinstance(output, Tensor) and "input" not in options:
            carried = rule(self.ledger, output, *args, **options)
        if carried is None:
            for tensor in inputs:
                self.ledger.fix(tensor)
        for tensor in outputs:
            self.ledger.note(tensor, carried)
        return output


# The rules say of a call which units its output carries. None is that nobody knows: then all units
# that its inputs carry stay ungated.


def _convolution(
    ledger: Ledger,
    output: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *others: Any,
    **options: Any,
) -> Carried | None:
    groups = options.get("groups", others[3] if len(others) > 3 else 1)
    layer, units = ledger.layer_of(weight), ledger.carried(features)
    if layer is None or features.ndim != 4:
        return None
    if groups == 1:
        return ledger.pass_layer(layer, features, weight, bias, dimension=1)
    if units and groups == features.shape[1] == output.shape[1]:
        ledger.claim(units, weight, bias)
        return units
    return None


def _dense(
    ledger: Ledger, output: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Carried | None:
    layer = ledger.layer_of(weight)
    if layer is None:
        return None
    return ledger.pass_layer(layer, features, weight, bias, dimension=output.ndim - 1)


def _normalisation(
    ledger: Ledger,
    output: Tensor,
    features: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *others: Any,
    **options: Any,
) -> Carried | None:
    del output, others, options
    units = ledger.carried(features)
    if units is None or units.dimension != 1:
        return None
    ledger.claim(units, running_mean, running_var, weight, bias)
    return units


def _one_by_one(
    ledger: Ledger, output: Tensor, features: Tensor, *others: Any, **options: Any
) -> Carried | None:
    if output.shape != features.shape or _tensors((others, options)):
        return None
    return ledger.carried(features)


def _together(ledger: Ledger, output: Tensor, *operands: Any, **options: Any) -> Carried | None:
    """Join the units of tensors that are added or multiplied, of which some may be parameters."""
    tensors = _tensors(operands)
    carriers = [tensor for tensor in tensors if ledger.carried(tensor)]
    if not carriers or _tensors(options):
        return None
    units = cast("Carried", ledger.carried(carriers[0]))
    offset = units.dimension - carriers[0].ndim
    length = output.shape[offset]
    if carriers[0].shape[offset] != length:
        return None
    for tensor in tensors:
        theirs = ledger.carried(tensor)
        if theirs and (theirs.dimension - tensor.ndim, theirs.block) != (offset, units.block):
            return None
        if theirs:
            units.group.join(theirs.group)
        elif tensor.ndim >= -offset and tensor.shape[offset] == length:
            ledger.claim(units, tensor, dimension=tensor.ndim + offset)
    return units._replace(dimension=output.ndim + offset)


def _in_space(
    ledger: Ledger, output: Tensor, features: Tensor, *others: Any, **options: Any
) -> Carried | None:
    """Keep the channels of what only mixes the positions of each."""
    units = ledger.carried(features)
    maps = features.ndim == output.ndim == 4 and not _tensors((others, options))
    return units if maps and units and units.dimension == 1 else None


def _padding(
    ledger: Ledger, output: Tensor, features: Tensor, pad: Sequence[int], *others: Any, **more: Any
) -> Carried | None:
    return None if len(pad) > 4 else _in_space(ledger, output, features, *others, **more)


def _reduction(
    ledger: Ledger,
    output: Tensor,
    features: Tensor,
    dim: int | Sequence[int] | None = None,
    *others: Any,
    **options: Any,
) -> Carried | None:
    del others, options
    units = ledger.carried(features)
    if units is None or dim is None:
        return None
    gone = {axis % features.ndim for axis in ([dim] if isinstance(dim, int) else dim)}
    if units.dimension in gone or not gone:
        return None
    kept = output.ndim == features.ndim
    before = 0 if kept else sum(axis < units.dimension for axis in gone)
    return units._replace(dimension=units.dimension - before)


def _permutation(
    ledger: Ledger, output: Tensor, features: Tensor, *axes: Any, **options: Any
) -> Carried | None:
    units = ledger.carried(features)
    if units is None or options:
        return None
    order = axes[0] if isinstance(axes[0], Sequence) else axes
    old = [axis % output.ndim for axis in order]
    return units._replace(dimension=old.index(units.dimension))


def _transposition(
    ledger: Ledger, output: Tensor, features: Tensor, one: int = -2, other: int = -1
) -> Carried | None:
    units = ledger.carried(features)
    if units is None:
        return None
    axes = list(range(output.ndim))
    axes[one], axes[other] = axes[other], axes[one]
    return units._replace(dimension=axes.index(units.dimension))


def _reshaping(
    ledger: Ledger, output: Tensor, features: Tensor, *others: Any, **options: Any
) -> Carried | None:
    """Find the dimension along which the units lie now, each followed by what was behind it."""
    del others, options
    units = ledger.carried(features)
    if units is None:
        return None
    outside = math.prod(features.shape[: units.dimension])
    length = features.shape[units.dimension]
    for dimension, now in enumerate(output.shape):
        if math.prod(output.shape[:dimension]) == outside and now % length == 0:
            return Carried(dimension, units.group, units.block * (now // length))
    return None


def _indexing(ledger: Ledger, output: Tensor, features: Tensor, index: Any) -> Carried | None:
    axes = index if isinstance(index, tuple) else (index,)
    only_new_axes = all(axis is None or axis is ... or axis == slice(None) for axis in axes)
    return _reshaping(ledger, output, features) if only_new_axes else None


def _tensors(values: Any) -> list[Tensor]:
    """Give the tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


_SAME = (
    *("celu", "clamp", "clone", "contiguous", "detach", "dropout", "dropout2d", "elu", "float"),
    *("gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "relu6"),
    *("selu", "sigmoid", "silu", "softplus", "tanh", "to"),
)
_JOINT = ("add", "div", "maximum", "minimum", "mul", "multiply", "sub", "subtract", "true_divide")
_SPATIAL = ("adaptive_avg_pool2d", "avg_pool2d", "interpolate", "max_pool2d")
_RULES: dict[str, Callable[..., Carried | None]] = {
    "conv2d": _convolution,
    "linear": _dense,
    "batch_norm": _normalisation,
    **{f"{name}{end}": _one_by_one for name in _SAME for end in ("", "_")},
    **{f"{name}{end}": _together for name in _JOINT for end in ("", "_")},
    **dict.fromkeys(_SPATIAL, _in_space),
    "pad": _padding,
    **dict.fromkeys(("amax", "mean", "sum"), _reduction),
    "permute": _permutation,
    **dict.fromkeys(("mT", "swapaxes", "transpose"), _transposition),
    **dict.fromkeys(
        ("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"), _reshaping
    ),
    "__getitem__": _indexing,
}
# What may be asked of a tensor without reading its values.
_QUESTIONS = {
    *("__len__", "_assert", "device", "dim", "dtype", "element_size", "get_device", "is_complex"),
    *("is_contiguous", "is_cuda", "is_floating_point", "is_meta", "layout", "ndim", "ndimension"),
    *("numel", "requires_grad", "shape", "size", "stride"),
}
