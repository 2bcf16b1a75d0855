"""Two-phase losses: what trains a feature pyramid decoder, and the gate between its phases."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.defences.defended import Defended
from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.defences.restoration import Scope
from components.randomness import sample_seeds, uniform
from components.sharing import batch_means
from components.tensors import Images, Targets

Second: TypeAlias = Literal["summed", "through", "detached", "recomputed", "none"]
"""How the restored image is learned from: in one update with the first phase, with no gradient to
what has restored it (``summed``) or with it (``through``); in an update of its own, as it was
restored before the first (``detached``) or restored again (``recomputed``); or not at all."""

OWN_UPDATE = ("detached", "recomputed")


def find_decoder(model: nn.Module) -> FeaturePyramidDecoder:
    """Give the decoder that a model wears outermost.

    Raises:
        ValueError: it wears none, or another defence around it.
    """
    for part in model.modules():
        if isinstance(part, FeaturePyramidDecoder):
            return part
        if isinstance(part, Defended):
            raise ValueError(
                "the defence 'feature_pyramid_decoder' must come last, so that what it restores "
                f"is the image itself; {type(part).__name__} is around it"
            )
    raise ValueError(
        f"{type(model).__name__} has no feature pyramid decoder; put the defence "
        "'feature_pyramid_decoder' on it"
    )


def restoration_loss(restored: Images, clean: Images) -> Tensor:
    """Give the mean squared error, in float32; the L2 loss of Li et al., 2020."""
    return functional.mse_loss(restored.float(), clean.float())


def add_uniform_noise(images: Images, epsilon: float, *, seed: int | Tensor) -> Images:
    """Give a neighbour of each image, each pixel at most epsilon away; it may leave [0, 1].

    Published are 0.01 for MNIST and SVHN, and about 0.007 for Caltech.

    Args:
        images: any.
        epsilon: largest change of a pixel.
        seed: one for all, or one per image.
    """
    seeds = sample_seeds(seed, len(images), images.device)
    noise = uniform(seeds, tuple(images.shape[1:]), stream=0)
    return images + epsilon * (2 * noise - 1)


def two_phase_losses(
    decoder: FeaturePyramidDecoder,
    images: Images,
    targets: Targets,
    *,
    noisy: Images | None = None,
    clean_share: float = 0.0,
    threshold: float = 3.0,
    classification_weight: float = 1.0,
    restoration_weight: float = 1.0,
    second_restoration_weight: float = 1.0,
    gate_scope: Scope = "front_and_restore",
    second: Second = "summed",
) -> Iterator[dict[str, Tensor]]:
    """Give the losses of a batch, one update after the other; ``loss`` is what each descends.

    Li et al., 2020, https://arxiv.org/abs/2005.02552. While the restoration is off by more than the
    threshold, the gate is closed and only the restoration is learned; once it is open, the label
    is learned as well, and then with the restored image as input. With the gate closed, no gradient
    reaches what the scope leaves out, so that an optimizer skips it if gradients are None.

    Differs from the published code: there the second phase is an update of its own that looks back
    through weights which the first has changed meanwhile. Current torch refuses that, so here it
    looks through the changed weights (``recomputed``), or does not look back (``detached``), or
    both phases are one update. There the closed gate trains the transposed convolutions alone, by
    mistake: ``enlarge`` is that.

    Args:
        decoder: in training mode.
        images: clean; what is to be restored.
        targets: class probabilities.
        noisy: the same images with noise or attacked; None takes the clean ones.
        clean_share: weight of the clean images' losses beside those of the noisy ones, in the first
            phase once the gate is open; published is 0 without an attack, and a half with one.
        threshold: T, in squared units of what is restored; published is 3, and 1 for Caltech. An
            image that is black everywhere is off by less than 1.
        classification_weight: alpha_1.
        restoration_weight: alpha_2.
        second_restoration_weight: alpha_2 of the second phase; published is 0.1 for Caltech.
        gate_scope: what the closed gate trains.
        second: the second phase, see `Second`.

    Yields:
        ``loss`` and its terms, as far as they were computed, before they are weighted; the first
        time with ``gate``, which is 1 if it was open. A second time if it was, and the second phase
        is an update of its own: the weights may change in between.

    Raises:
        ValueError: a number is negative or not finite.
    """
    weights = (classification_weight, restoration_weight, second_restoration_weight)
    if not (all(0 <= weight < math.inf for weight in weights) and threshold > 0):
        raise ValueError(
            f"weights must be finite and not negative, got {weights}, and threshold above 0, got "
            f"{threshold}"
        )
    if not 0 <= clean_share <= 1:
        raise ValueError(f"clean_share must be in [0, 1], got {clean_share}")
    clean = decoder.enter(images)
    seen = images if noisy is None else noisy
    front = decoder.restore(seen)
    error = restoration_loss(front.restored, clean)
    (whole_error,) = batch_means([error], len(images))  # all processes open the gate, or none does
    gate = whole_error <= threshold
    losses = {"restoration": error.detach(), "gate": gate.float()}
    if not gate:
        if gate_scope != "front_and_restore":
            image = decoder.restoration(front.features, clean.shape[-2:], scope=gate_scope)
            error = restoration_loss(image, clean)
        yield {"loss": restoration_weight * error, **losses}
        return
    logits = decoder.classify(seen, front).logits
    classification = functional.cross_entropy(logits.float(), targets)
    losses["loss"] = classification_weight * classification + restoration_weight * error
    losses["classification"] = classification.detach()
    weigh = partial(_losses, decoder, clean, targets, classification_weight=classification_weight)
    if clean_share > 0:
        known = weigh(clean, restoration_weight=restoration_weight)["loss"]
        losses["loss"] = torch.lerp(losses["loss"], known, clean_share)
    restored = front.restored if second == "through" else front.restored.detach()

    def again(restored: Images) -> dict[str, Tensor]:
        losses = weigh(restored, restoration_weight=second_restoration_weight)
        return {name if name == "loss" else f"second_{name}": v for name, v in losses.items()}

    if second == "none":
        yield losses
    elif second in OWN_UPDATE:
        yield losses
        if second == "recomputed":
            restored = decoder.restore(seen).restored
        yield again(restored)
    else:
        then = again(restored)
        yield {**losses, **then, "loss": losses["loss"] + then["loss"]}


def _losses(
    decoder: FeaturePyramidDecoder,
    clean: Images,
    targets: Targets,
    seen: Images,
    *,
    classification_weight: float,
    restoration_weight: float,
) -> dict[str, Tensor]:
    """Give the losses with an image as input that the decoder has entered."""
    parts = decoder.parts(seen, entered=True)
    classification = functional.cross_entropy(parts.logits.float(), targets)
    error = restoration_loss(parts.front.restored, clean)
    return {
        "loss": classification_weight * classification + restoration_weight * error,
        "classification": classification.detach(),
        "restoration": error.detach(),
    }
