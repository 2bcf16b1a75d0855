"""How far latent features move between clean images and their adversarial twins."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn


def names_latent_features(model: nn.Module) -> bool:
    """Say whether any part of a model names its latent features."""
    return any(hasattr(part, "latent_features") for part in model.modules())


@contextmanager
def latent_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the features that the model's backbone names, from every forward pass meanwhile.

    Raises:
        ValueError: no part of the model has a tuple ``latent_features`` of its modules' names.
    """
    if not names_latent_features(model):
        raise ValueError(f"{type(model).__name__} does not name its latent_features")
    backbone = next(part for part in model.modules() if hasattr(part, "latent_features"))
    names = cast("tuple[str, ...]", backbone.latent_features)
    features: list[Tensor] = []

    def collect(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        features.append(output)

    taps = [backbone.get_submodule(name) for name in names]
    handles = [tap.register_forward_hook(collect) for tap in taps]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def vulnerability(features: list[Tensor], *, units: Literal["mean", "sum"] = "mean") -> Tensor:
    """Give the absolute difference of each feature, averaged over images and over features.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355, with the mean over the units of a feature
    as in the published code, or the sum as in the article. Differs from that code: the first
    feature is optimised like the others.

    Args:
        features: of batches whose first half is clean and whose second half is the same images
            after the attack.
        units: how the units of a feature are put together.
    """
    moved = [(clean - twin).abs().flatten(1) for clean, twin in (f.chunk(2) for f in features)]
    per_image = [m.mean(1) if units == "mean" else m.sum(1) for m in moved]
    return torch.stack([difference.mean() for difference in per_image]).mean()
