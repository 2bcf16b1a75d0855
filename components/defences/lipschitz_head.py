"""Lipschitz head: logits that cannot grow faster than the last features move."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from components.defences.attachment import find_head
from components.defences.defended import Defended, honest_view
from components.tensors import Classifier, Images, Logits

Bound: TypeAlias = Literal["none", "tanh", "spectral", "spectral_tanh"]


class LipschitzHead(Defended):
    """Bounds the logits by tanh, the weights of the last layer by their spectral norm, or both.

    Li et al., 2020, https://arxiv.org/abs/2005.02552, whose published code has tanh alone: the
    logits stay in (-1, 1), but what the norm of the weights is, nobody minds. With both, the step
    from the last features to the logits is ``scale * lipschitz``-Lipschitz in the Euclidean norm.

    In float32, the slope of tanh is exactly 0 beyond 9.02 or so, where attackers find no gradient
    at all. The honest view leaves tanh out, which never changes the order of the logits; where it
    is saturated, logits that were different become equal.

    Args:
        inner: the model behind it.
        bound: ``spectral`` divides the weights by their largest singular value where it is above
            ``lipschitz``.
        lipschitz: L.
        scale: s of s tanh(logits); with 1, as published, cross-entropy on 10 classes cannot fall
            below 0.797; 5 to 10 let it.

    Raises:
        ValueError: an option is out of range or has no effect, or no layer gives the logits.
    """

    def __init__(
        self,
        inner: nn.Module,
        *,
        bound: Literal["tanh", "spectral", "spectral_tanh"] = "spectral_tanh",
        lipschitz: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(inner)
        check_bound(bound, lipschitz, scale)
        self.bound, self.lipschitz, self.scale = bound, lipschitz, scale
        self._head = find_head(inner) if "spectral" in bound else ""

    def forward(self, images: Images) -> Logits:
        """Classify, with bounded logits."""
        with self._bounded():
            return squash(self.inner(images), self.bound, self.scale)

    def honest_view(self, draws: int) -> Classifier:
        """Leave tanh out."""
        inner = honest_view(self.inner, draws=draws)

        def view(images: Images) -> Logits:
            with self._bounded():
                return inner(images)

        return view

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        if not self._head:
            yield
            return
        with bounded_head(self.inner.get_submodule(self._head), self.lipschitz):
            yield


def check_bound(bound: Bound, lipschitz: float, scale: float) -> None:
    """Refuse numbers that are not positive, or that the bound does not look at."""
    for name, value, needed in (("lipschitz", lipschitz, "spectral"), ("scale", scale, "tanh")):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be finite and above 0, got {value}")
        if value != 1 and needed not in bound:
            raise ValueError(f"{name} has no effect without {needed}; leave it out")


def squash(logits: Logits, bound: Bound, scale: float) -> Logits:
    """Give s tanh(logits) where the bound says so."""
    return scale * torch.tanh(logits) if "tanh" in bound else logits


def bounded_weight(weight: Tensor, lipschitz: float) -> Tensor:
    """Give W min(1, L / sigma), sigma its largest singular value; exact, so it is a true bound.

    Args:
        weight: of a dense layer, or of a convolution of a single pixel.
        lipschitz: L.
    """
    sigma = torch.linalg.matrix_norm(weight.flatten(1).float(), ord=2)
    return weight * (lipschitz / sigma).clamp(max=1).to(weight.dtype)


@contextmanager
def bounded_head(head: nn.Module, lipschitz: float) -> Iterator[None]:
    """Let a layer work with bounded weights meanwhile."""
    before = head.__dict__.get("weight")  # where bounds are stacked
    weight = head._parameters["weight"] if before is None else before
    assert weight is not None
    # A plain tensor stands before the parameter of the same name, which gets its gradient.
    head.__dict__["weight"] = bounded_weight(weight, lipschitz)
    try:
        yield
    finally:
        del head.__dict__["weight"]
        if before is not None:
            head.__dict__["weight"] = before
