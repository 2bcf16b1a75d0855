"""Passing: one pass through a network whose blocks are listened to and denoised meanwhile."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from components.defences.attachment import Level
from components.defences.denoising import Features
from components.tensors import Classifier, Images, Logits


@dataclass
class Passed:
    """What a pass left behind.

    Attributes:
        logits: None where the pass ended at the coarsest level.
        entered: what came into the trunk.
        features: of each level, the finest first, before they were denoised.
    """

    logits: Logits | None = None
    entered: Images | None = None
    features: dict[str, Features] = field(default_factory=dict)


class Restored(NamedTuple):
    """What the front pass gives.

    Attributes:
        entered: what came into the trunk: the images, or these normalised.
        restored: what the decoder makes of them, in the same units.
        features: of the levels, the finest first.
    """

    entered: Images
    restored: Images
    features: list[Features]


class Parts(NamedTuple):
    """All that one call computes.

    Attributes:
        logits: after the bound.
        unbounded: before tanh.
        front: what the front pass gives.
        middle: what the back pass sees.
        back: features of the levels in the back pass, the finest first.
    """

    logits: Logits
    unbounded: Logits
    front: Restored
    middle: Images
    back: list[Features]


class _Enough(Exception):
    """The last level is known; nothing after it is wanted."""


def pass_through(
    network: nn.Module,
    view: Classifier,
    images: Images,
    *,
    levels: Sequence[Level],
    denoise: Mapping[str, Callable[[Features], Features]],
    entrance: str = "",
    replaced: Images | None = None,
    before_head: tuple[str, nn.Module] | None = None,
    stop: bool = False,
) -> Passed:
    """Pass images through a network.

    Hooks are set for this pass only, so that other callers see the network as it is.

    Args:
        network: whose modules are listened to.
        view: calls them: the network itself, or its honest view.
        images: to pass.
        levels: to be kept, the finest first.
        denoise: what to do at a module, by its name; with ``:input`` behind it, before it.
        entrance: name of the module behind which the trunk begins; empty is the network itself.
        replaced: comes out of the entrance in place of what would.
        before_head: name of the last layer, and what changes its input.
        stop: at the last level.
    """
    passed = Passed(entered=None if entrance else images)
    last = levels[-1].name
    kept = {level.name: level for level in levels}

    def listen(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if name in kept:
                passed.features[name] = output.clone() if kept[name].overwritten else output
            if stop and name == last:
                raise _Enough
            return denoise[name](output) if name in denoise else output

        return hook

    def enter(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        passed.entered = output if replaced is None else replaced
        return passed.entered

    def before(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        return lambda _module, inputs: (change(inputs[0]), *inputs[1:])

    with ExitStack() as stack:
        outputs = {name for name in denoise if not name.endswith(":input")}
        for name in sorted(outputs | kept.keys()):
            module = network.get_submodule(name)
            stack.callback(module.register_forward_hook(listen(name)).remove)
        inputs = [(name[: -len(":input")], denoise[name]) for name in denoise.keys() - outputs]
        for name, change in inputs + ([before_head] if before_head else []):
            module = network.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(before(change)).remove)
        if entrance:
            module = network.get_submodule(entrance)
            stack.callback(module.register_forward_hook(enter).remove)
        with suppress(_Enough):
            passed.logits = view(images)
    return passed
