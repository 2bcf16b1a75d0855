"""How far latent features move between clean images and their adversarial twins."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from components.tensors import Images, Logits

Form: TypeAlias = Literal["mean", "sum", "relative"]
"""How the movements of a feature's units become one number."""

_TINY = 1e-12  # a feature that is nothing but zeros does not move


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


def twin_passes(
    model: nn.Module, images: Images, attacked: Images, *, shared_noise: bool = True
) -> tuple[Logits, Logits, list[Tensor]]:
    """Classify images and the same images after an attack, and collect their latent features.

    Each batch passes by itself, so that BatchNorm normalises each by its own statistics.

    Args:
        model: names its latent features.
        images: clean.
        attacked: the same images, attacked.
        shared_noise: let both draw the same dropout and the same gates, so that features differ by
            the attack alone.

    Returns:
        The logits of both, and for each feature a batch of the clean ones followed by their twins.

    Raises:
        ValueError: the model does not name its latent features.
    """
    device = images.device
    with latent_features(model) as features:
        noise = _random_state(device)
        clean = model(images)
        if shared_noise:
            _set_random_state(device, noise)
        adversarial = model(attacked)
    pairs = zip(features[: len(features) // 2], features[len(features) // 2 :], strict=True)
    return clean, adversarial, [torch.cat(pair) for pair in pairs]


def vulnerabilities(features: list[Tensor], *, form: Form = "mean") -> Tensor:
    """Say of each latent feature how far an attack moves it.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355: the mean over images of |z − z'|, with

        mean      the mean over the units of the feature, as in the published code
        sum       the sum over them, as in the article
        relative  the mean, divided by the mean of |z|, which does not fall as activations shrink

    Args:
        features: of batches whose first half is clean and whose second half is the same images
            after the attack.
        form: as above.
    """
    moved = []
    for clean, twin in (feature.chunk(2) for feature in features):
        difference = (clean - twin).abs().flatten(1)
        each = difference.sum(1) if form == "sum" else difference.mean(1)
        moved.append(each.mean())
        if form == "relative":
            moved[-1] = moved[-1] / (clean.abs().mean() + _TINY)
    return torch.stack(moved)


def vulnerability(
    features: list[Tensor], *, form: Form = "mean", skip_first: bool = False
) -> Tensor:
    """Average the vulnerabilities of the features.

    Args:
        features: as for `vulnerabilities`.
        form: likewise.
        skip_first: count the first feature without a gradient, as the published code does.
    """
    if skip_first:
        features = [features[0].detach(), *features[1:]]
    return vulnerabilities(features, form=form).mean()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
