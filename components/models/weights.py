"""Weights to start from: of a safetensors or torch file or a checkpoint, and whether they fit."""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn

from components.config import Choice, check_value
from components.storage import StorageError, open_folder

WEIGHTS, WORDS = "weights.safetensors", "model.json"
_FORMS = "a safetensors file, a torch file or a checkpoint folder, as a path or s3:// address"
_NESTS = ("state_dict", "model_state_dict", "model", "net")  # where scripts keep it beside others
_SHOWN = 3


class Source(NamedTuple):
    """What the words of a backbone say besides its own options.

    Attributes:
        address: a file or a checkpoint folder with weights, on disk or in a bucket; empty for
            fresh ones.
        reset_head: let the layers that depend on the number of classes start afresh.
        units: how many pruning left, by the names of the gates; None if it is not pruned.
        dependent_gates: whether it has gates that depend on the image.
    """

    address: str
    reset_head: bool
    units: dict[str, int] | None = None
    dependent_gates: bool = False


class Normalisation(NamedTuple):
    """What weights expect their images to be normalised by, per channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def divide_choice(choice: Choice) -> tuple[Choice, Source]:
    """Divide a backbone's words: those that `Source` takes up are not its function's.

    Raises:
        ValueError: one of them is of the wrong type, or makes no sense with the others.
    """
    words = dict(choice)
    source = Source(
        address=check_value("weights", words.pop("weights", ""), str),
        reset_head=check_value("reset_head", words.pop("reset_head", False), bool),
        units=words.pop("units", None),
        dependent_gates=check_value("dependent_gates", words.pop("dependent_gates", False), bool),
    )
    counts = source.units
    if counts is not None and not (
        isinstance(counts, Mapping) and all(type(count) is int for count in counts.values())
    ):
        raise ValueError(
            f'units must be numbers by gate, {{"layer1.0.conv2": 8, ...}}, got {counts}'
        )
    if source.reset_head and not source.address:
        raise ValueError(f"reset_head has no effect without weights, {_FORMS}")
    if source.address and words.get("pretrained"):
        raise ValueError("weights and pretrained exclude each other; leave one of them out")
    return words, source


def take_weights(backbone: nn.Module, source: Source) -> Normalisation | None:
    """Load weights into a backbone, all of them or none.

    A network may have a function `adapt_weights` for files that do not fit as they are: it gives
    the tensors that the network would have from them, or None for those of another network.

    Of a torch file only tensors are read; it may hold them in a dictionary of ``state_dict``,
    ``model_state_dict``, ``model`` or ``net``, and under names that begin with ``module.``.

    Returns:
        What the weights' images were normalised by: a checkpoint says it, and timm of its networks.

    Raises:
        ValueError: the weights cannot be read, or do not fit the backbone.
    """
    content, words = _read(source.address)
    state = _tensors(content, source.address)
    own, head = backbone.state_dict(), head_layers(backbone)
    if words is None:
        state = _adapted(backbone, state)
        expected, origin = published_normalisation(backbone), source.address
    else:
        state, expected = _network_of(state, words, source.address)
        origin = f"{source.address} with the backbone {json.dumps(words['spec']['backbone'])}"
    if source.reset_head and not head:
        raise ValueError(f"reset_head fits no {type(backbone).__name__}: it does not name its head")
    if source.reset_head:
        state = {name: value for name, value in state.items() if not _within(name, head)}
        state |= {name: value for name, value in own.items() if _within(name, head)}
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):  # which older files lack and nothing reads
            state.setdefault(name, value)
    _check_fit(own, state, head, origin)
    backbone.load_state_dict(state)
    return expected


def _adapted(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give weights as the backbone would have them, where it can tell and they are not so yet."""
    adapt, head = getattr(backbone, "adapt_weights", None), head_layers(backbone)
    own = backbone.state_dict()
    if adapt is None or _shapes(own, head) == _shapes(state, head):
        return state
    return adapt(state) or state


def _shapes(state: Mapping[str, Tensor], head: Iterable[str]) -> dict[str, torch.Size]:
    """Give the shapes of what files of one network, for whatever classes, have in common."""
    return {
        name: value.shape
        for name, value in state.items()
        if not name.endswith("num_batches_tracked") and not _within(name, head)
    }


def published_normalisation(backbone: nn.Module) -> Normalisation | None:
    """Give what timm says its network's weights expect; None for networks that are not timm's."""
    known = getattr(backbone, "pretrained_cfg", None)
    return known and Normalisation(tuple(known["mean"]), tuple(known["std"]))


def _read(address: str) -> tuple[bytes, Any]:
    """Give the file with the weights, and the words beside it if they are a checkpoint's."""
    try:
        folder = open_folder(address)
        if folder.exists(WORDS):
            return folder.read(WEIGHTS), json.loads(folder.read(WORDS))
        above, _, name = address.rpartition("/")
        if "://" not in address:
            above, name = str(Path(address).parent), Path(address).name
        return open_folder(above).read(name), None
    except (StorageError, ValueError) as error:
        raise ValueError(f"weights cannot be read: {error}; give {_FORMS}") from error


def _network_of(
    state: dict[str, Tensor], words: Any, address: str
) -> tuple[dict[str, Tensor], Normalisation]:
    """Give the backbone's part of a checkpoint, and what it was normalised by."""
    try:
        spec = words["spec"]
        # Defences wrap the network, in which the normalisation comes before the backbone.
        prefix = "inner." * len(spec["defences"]) + "1."
        expected = Normalisation(tuple(spec["mean"]), tuple(spec["deviation"]))
        spec["backbone"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{address} is no usable checkpoint: {WORDS} does not describe a model ({error!r})"
        ) from error
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state[name] for name in names}, expected


def _tensors(content: bytes, address: str) -> dict[str, Tensor]:
    """Give a file's tensors by name."""
    try:
        if content[8:9] == b"{":  # after the length of a safetensors file's header
            return load(content)
        found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file may provoke
        raise ValueError(
            f"{address} is no undamaged file of tensors alone, and nothing else is unpickled; save "
            "the network's state_dict() by safetensors or torch.save"
        ) from error
    if isinstance(found, Mapping):
        nests = [found[nest] for nest in _NESTS if isinstance(found.get(nest), Mapping)]
        tensors = dict(nests[0] if nests else found)
        if tensors and all(isinstance(n, str) and isinstance(tensors[n], Tensor) for n in tensors):
            return {name.removeprefix("module."): value for name, value in tensors.items()}
    raise ValueError(
        f"{address} must hold a dictionary of tensors, itself or under one of {list(_NESTS)}"
    )


def _check_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], head: Iterable[str], origin: str
) -> None:
    """Refuse weights of other names or shapes, in one line."""
    missing, unexpected = own.keys() - state.keys(), state.keys() - own.keys()
    reshaped = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    shapes = [f"{n} ({tuple(state[n].shape)}, not {tuple(own[n].shape)})" for n in sorted(reshaped)]
    complaints = [
        f"{what} {', '.join(names[:_SHOWN])}{_rest(len(names) - _SHOWN)}"
        for what, names in (
            ("missing", sorted(missing)),
            ("unexpected", sorted(unexpected)),
            ("of another shape", shapes),
        )
        if names
    ]
    if not complaints:
        return
    only_head = all(_within(name, head) for name in missing | unexpected | reshaped)
    remedy = "; set reset_head to let the classifier start afresh" if only_head else ""
    raise ValueError(f"the weights of {origin} do not fit: {', '.join(complaints)}{remedy}")


def _rest(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def head_layers(backbone: nn.Module) -> tuple[str, ...]:
    """Name the layers, or weights, that depend on the number of classes."""
    known = getattr(backbone, "pretrained_cfg", None) or {}
    names = getattr(backbone, "head_layers", None) or known.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _within(name: str, layers: Iterable[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
