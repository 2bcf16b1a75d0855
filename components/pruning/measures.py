"""The eight columns of the published tables, measured on a model as it is kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.gradients import untouched
from components.choose import choose
from components.config import Choice
from components.defences.defended import honest_view
from components.latent import latent_features
from components.models.build import Model
from components.models.costs import count_flops, count_memory, count_parameters
from components.pruning.gates import gate_widths
from components.tensors import Images, Labels

_TINY = 1e-12  # a feature that is nothing but zeros does not move


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What Madaan et al., 2020, https://arxiv.org/abs/1908.04355, report of a model, and more.

    Attributes:
        clean_accuracy: share of all test images right without an attack.
        attacked_images: how many of them the other columns are of.
        white_box_accuracy: under an attack along the model's own gradients.
        black_box_accuracy: under images that were crafted on the source model.
        white_box_vulnerability: mean movement of latent features under the former, over all these
            images. Units that were cut out count as units that do not move, as published.
        black_box_vulnerability: likewise, under the latter.
        memory_percent: of the source model's, by the published count.
        flops_ratio: how many times fewer operations than the source model's.
        sparsity_percent: of the source model's units, those that are gone.
        zero_weights_percent: of the weights that are left, those that are zero: sparse, not
            smaller.
        parameters: that are left.
        layer_vulnerability: white-box, feature by feature.
        relative_vulnerability: the same, divided by the mean size of the feature, which neither
            small activations nor missing units make look better.
        units: left at each gate.
    """

    clean_accuracy: float
    attacked_images: int
    white_box_accuracy: float
    black_box_accuracy: float
    white_box_vulnerability: float
    black_box_vulnerability: float
    memory_percent: float
    flops_ratio: float
    sparsity_percent: float
    zero_weights_percent: float
    parameters: int
    layer_vulnerability: tuple[float, ...]
    relative_vulnerability: tuple[float, ...]
    units: dict[str, int]


def measure_columns(
    model: Model,
    source: Model,
    images: Images,
    labels: Labels,
    *,
    white_box: Images,
    black_box: Images,
    batch_size: int = 256,
) -> Columns:
    """Say what attacked images do to a model, and what it costs.

    Differs from the published code: vulnerability is that of all images, not of the last batch.

    Args:
        model: on the images' device; left as it was.
        source: full, of the same architecture, with other initial weights.
        images: float32 in [0, 1]; clean accuracy is that of all.
        labels: the true classes.
        white_box: the images, or the first of them, after an attack on the model, see
            `attack_images`.
        black_box: the same ones after the same attack on the source.
        batch_size: images per forward pass.
    """
    with untouched(model), torch.no_grad():
        clean = torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])
        right = float((clean == labels).double().mean())
        images, labels = images[: len(white_box)], labels[: len(white_box)]
        white = _compare(model, images, white_box, batch_size)
        black = _compare(model, images, black_box, batch_size)
    left = _shares_left(model, source, images[:1])
    layers = (white.moved * left).tolist()
    return Columns(
        clean_accuracy=right,
        attacked_images=len(images),
        white_box_accuracy=float((white.predictions == labels).double().mean()),
        black_box_accuracy=float((black.predictions == labels).double().mean()),
        white_box_vulnerability=sum(layers) / len(layers),
        black_box_vulnerability=float((black.moved * left).mean()),
        layer_vulnerability=tuple(layers),
        relative_vulnerability=tuple((white.moved / white.size.clamp(min=_TINY)).tolist()),
        **_costs(model, source),
    )


def attack_images(
    model: Model, images: Images, labels: Labels, *, attack: Choice, batch_size: int = 256
) -> Iterator[Images]:
    """Give the images after an attack, batch by batch.

    Args:
        model: left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        attack: an entry of ATTACKS; each batch has a seed of its own.
        batch_size: images per batch.
    """
    craft = choose(ATTACKS, attack, given=("seed",))
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    for seed, (clean, true) in enumerate(batches):
        yield craft(honest_view(model), clean, true, seed=seed)


def zero_weights(model: Model) -> float:
    """Give the share of a model's weights, biases aside, that are exactly zero."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """What an attack does: the answers, and each feature's mean movement and mean size."""

    predictions: Tensor
    moved: Tensor
    size: Tensor


def _compare(model: nn.Module, images: Images, twins: Images, batch_size: int) -> _Comparison:
    predictions, moved, size = [], [], []
    for clean, twin in zip(images.split(batch_size), twins.split(batch_size), strict=True):
        with latent_features(model) as features:
            _, logits = model(torch.cat([clean, twin])).chunk(2)
        pairs = [feature.flatten(1).double().chunk(2) for feature in features]
        predictions.append(logits.argmax(1))
        moved.append(torch.stack([(a - b).abs().mean(1).sum() for a, b in pairs]).cpu())
        size.append(torch.stack([a.abs().mean(1).sum() for a, _ in pairs]).cpu())
    sums = (torch.stack(each).sum(0) / len(images) for each in (moved, size))
    return _Comparison(torch.cat(predictions), *sums)


@torch.no_grad()
def _shares_left(model: nn.Module, source: nn.Module, image: Images) -> Tensor:
    """Say of each feature which share of the source's units the model still has."""
    counts = []
    for network in (model, source):
        with untouched(network), latent_features(network) as features:
            network(image)
        counts.append(torch.tensor([feature[0].numel() for feature in features]).double())
    return counts[0] / counts[1]


def _costs(model: Model, source: Model) -> dict[str, Any]:
    shape = model.spec.image_shape
    units, all_units = gate_widths(model), gate_widths(source)
    return {
        "memory_percent": 100 * count_memory(model, shape) / count_memory(source, shape),
        "flops_ratio": count_flops(source, shape) / count_flops(model, shape),
        "sparsity_percent": 100 * (1 - sum(units.values()) / sum(all_units.values())),
        "zero_weights_percent": 100 * zero_weights(model),
        "parameters": count_parameters(model),
        "units": units,
    }
