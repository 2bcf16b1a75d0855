"""What goes on inside a model during one forward pass: gradients, number formats, repetitions."""

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from components.tensors import Logits

_TAKES_GRADIENTS = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was seen.

    Attributes:
        gradients: how often a gradient was taken.
        digits: stored bits of the least exact floating-point numbers between layers and of weights.
        passes: how often the busiest layer with weights of its own ran.
    """

    gradients: int
    digits: int
    passes: int

    @property
    def optimises(self) -> bool:
        """Whether the model takes gradients to classify."""
        return self.gradients > 0


def traced(model: nn.Module, forward: Callable[[], Logits]) -> tuple[Logits, Trace]:
    """Run a forward pass and watch.

    Gradients are noticed by the code that runs, so a model may have imported ``grad`` under any
    name before.
    """
    kinds = {tensor.dtype for tensor in (*model.parameters(), *model.buffers())}
    runs: Counter[nn.Module] = Counter()
    gradients = 0

    def note_layer(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kinds.add(output.dtype)
        if next(module.parameters(recurse=False), None) is not None:
            runs[module] += 1

    def note_call(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal gradients
        gradients += event == "call" and frame.f_code in _TAKES_GRADIENTS

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(note_layer).remove)
        stack.callback(sys.setprofile, sys.getprofile())
        sys.setprofile(note_call)
        logits = forward()
    return logits, Trace(
        gradients=gradients,
        digits=min((_digits(kind) for kind in kinds if kind.is_floating_point), default=23),
        passes=max(runs.values(), default=1),
    )


def _digits(kind: torch.dtype) -> int:
    return round(-torch.tensor(torch.finfo(kind).eps).log2().item())
