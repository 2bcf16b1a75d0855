"""A private copy of a model to search on: BatchNorm folded, channels last, half the precision."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks.folding import fold, last_layer
from components.attacks.gradients import untouched
from components.attacks.losses import margin
from components.attacks.shortening import shortened
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels, Logits

# Largest difference of logits from the model's, in standard deviations of the model's logits.
# bfloat16 keeps 8 bits: a copy that is off by more climbs another landscape.
LIMITS = {"float32": 1e-4, "bfloat16": 0.1}
_SEEDS = (0, 1)  # a model that draws at random must go on drawing, and draw alike
_DOUBT = 8  # times the difference of logits; margins may differ by twice that
_BATCH_SIZE = 256  # images per forward pass where nothing needs a gradient


class SearchCopy(nn.Module):
    """A copy for attacks to search on: in evaluation mode, frozen, nothing shared with its model.

    Args:
        network: becomes part of the copy.
        folded: see below.
        precision: see below.

    Attributes:
        folded: how many BatchNorm layers have become part of the layer before them.
        precision: ``float32``, or ``bfloat16`` for convolutions, dense layers and what passes
            between them. Whatever comes before the first of them, such as the normalisation of
            the pixels, stays in float32, where steps of 1/255 are not rounded away.
        error: largest difference of logits from the model's on the example, in standard deviations
            of the model's logits.
        agreement: share of the example images that are given the same class.
    """

    def __init__(self, network: nn.Module, *, folded: int, precision: str) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.folded, self.precision, self.training = folded, precision, False
        self.error, self.agreement = float("nan"), float("nan")

    def forward(self, images: Images) -> Logits:
        """Give the logits in float32."""
        lower = self.precision == "bfloat16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=lower):
            return self.network(images).float()


def search_copy(model: nn.Module, example: Images, *, precision: str = "auto") -> SearchCopy | None:
    """Copy a model for attacks to search on, as fast as one that agrees with it on an example.

    A BatchNorm layer is folded into the convolution or dense layer whose output it reads, found by
    watching the example pass through. Nothing is traced: control flow and random draws stay.

    Args:
        model: left as it is; later changes to it do not reach the copy.
        example: images on which the copy must agree with the model, with the same random draws.
            What one of them disagrees with is undone: bfloat16 first, then the folding. The
            attributes of the copy say what is left.
        precision: ``float32``, ``bfloat16``, or ``auto`` for bfloat16 where the processor has it.

    Returns:
        The copy, or None if even a plain copy disagrees: then search on the model itself.

    Raises:
        ValueError: the example is empty or the precision unknown.
    """
    if not len(example):
        raise ValueError("example must hold at least one image, got none")
    if precision not in ("auto", *LIMITS):
        raise ValueError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    if precision == "auto":
        precision = "bfloat16" if bfloat16_pays(example.device) else "float32"
    with untouched(model):
        expected = [_drawn(model, example, seed) for seed in _SEEDS]
    if torch.equal(*expected):  # it does not draw, and need not be compared twice
        del expected[1:]
    plain, folded = _private(model), _private(model)
    with torch.no_grad(), _seeded(example.device, _SEEDS[0]):
        num_folded = fold(folded, example[:2])
    candidates = [
        SearchCopy(folded, folded=num_folded, precision="float32"),
        SearchCopy(plain, folded=0, precision="float32"),
    ]
    found = next((each for each in candidates if _agrees(each, example, expected)), None)
    if found is None or precision == "float32":
        return found
    lower = _lowered(found, example)
    return lower if _agrees(lower, example, expected) else found


def bfloat16_pays(device: torch.device) -> bool:
    """Say whether the processor multiplies bfloat16 faster than float32.

    On x86 that takes AVX512-BF16 or AMX: other processors only emulate it, which is slower. On
    CUDA it takes compute capability 8.0. Elsewhere the answer is no, for want of measurements.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def searched(attack: Callable[..., Images], copy: Classifier) -> Callable[..., Images]:
    """Give the same attack, which searches on a copy and is held to the model itself.

    What fools the model is kept. An image is attacked again, on the model, where the copy was
    fooled and the model is not, or where the copy withstood by too little to tell: by less than
    some times its difference from the model on this very image. The others withstood on both.

    It is meant for deterministic models, and for attacks inside a ball: for those that look for
    the nearest adversarial image, see `searched_nearest`.

    Args:
        attack: its options may be bound already; tensors with an entry per image must not be.
        copy: in evaluation mode and frozen, as `search_copy` gives it.
    """

    return _held_to_model(attack, copy, partial(_unsettled, copy=copy))


def searched_nearest(attack: Callable[..., Images], copy: Classifier) -> Callable[..., Images]:
    """Give the same minimum-norm attack, which searches on a copy and ends on the model itself.

    The boundary of the model is looked for on the line through the clean image and the one that
    fools the copy. An image is attacked again, on the model, where there is none nearby, or where
    the copy could not be fooled.

    Args:
        attack: its options may be bound already; tensors with an entry per image must not be. No
            radius may be set.
        copy: in evaluation mode and frozen, as `search_copy` gives it.
    """

    return _held_to_model(attack, copy, _shortened)


def _held_to_model(
    attack: Callable[..., Images],
    copy: Classifier,
    settle: Callable[[Classifier, Images, Images, Labels], tuple[Images, Tensor]],
) -> Callable[..., Images]:
    """Attack the copy, settle the outcome on the model, and attack that where it has to be."""

    @wraps(attack)
    @torch.no_grad()
    def on_the_copy(
        model: Classifier,
        images: Images,
        labels: Labels,
        *,
        seed: int | Tensor = 0,
        **options: Any,
    ) -> Images:
        seeds = sample_seeds(seed, len(images), images.device)
        adversarial = attack(copy, images, labels, seed=seeds, **options)
        again: list[Tensor] = []
        with untouched(model):
            for rows in torch.arange(len(images), device=images.device).split(_BATCH_SIZE):
                if len(rows):  # many models refuse an empty batch
                    settled, left = settle(model, images[rows], adversarial[rows], labels[rows])
                    adversarial[rows] = settled
                    again.append(rows[left])
        left = torch.cat(again) if again else labels.new_empty(0)
        if len(left):
            of_these = {name: _rows(option, left, len(images)) for name, option in options.items()}
            adversarial[left] = attack(
                model, images[left], labels[left], seed=seeds[left], **of_these
            )
        return adversarial

    return on_the_copy


def _unsettled(
    model: Classifier, _: Images, adversarial: Images, labels: Labels, *, copy: Classifier
) -> tuple[Images, Tensor]:
    """Find the images on which the model is right and the copy wrong, or nearly."""
    logits = model(adversarial)
    rows = (margin(logits, labels) <= 0).nonzero().squeeze(1)
    if not len(rows):
        return adversarial, rows
    claimed = copy(adversarial[rows])
    slack = _DOUBT * (claimed - logits[rows]).abs().amax(1)
    return adversarial, rows[margin(claimed, labels[rows]) > -slack]


def _shortened(
    model: Classifier, images: Images, adversarial: Images, labels: Labels
) -> tuple[Images, Tensor]:
    """Go to the model's own boundary, and find the images for which there was none."""
    nearest = shortened(model, images, adversarial, labels)
    return nearest, (nearest == images).flatten(1).all(1).nonzero().squeeze(1)


def _rows(option: Any, rows: Tensor, num_images: int) -> Any:
    """Pick the entries of these images from an option with an entry per image."""
    per_image = isinstance(option, Tensor) and option.ndim in (1, 4) and len(option) == num_images
    return option[rows] if per_image else option


def _private(model: nn.Module) -> nn.Module:
    """Copy a model, frozen and in evaluation mode, without the gradients it has gathered."""
    private = copy.deepcopy(model).requires_grad_(False)
    for parameter in private.parameters():
        parameter.grad = None
    for module in private.modules():
        module.training = False
    return private


def _lowered(found: SearchCopy, example: Images) -> SearchCopy:
    """Copy a copy in bfloat16, but for the layer that writes the logits.

    Those are often large and alike; rounded, they would tie. The other weights are converted here,
    since autocast would convert them again in every pass.
    """
    network = copy.deepcopy(found.network)
    with torch.no_grad(), _seeded(example.device, _SEEDS[0]):
        last = last_layer(network, example[:2])
    for name, module in network.named_modules():
        if name == last:
            keep_float32(module)
        elif type(module) in (nn.Conv2d, nn.Linear):
            module.to(torch.bfloat16)
    return SearchCopy(network, folded=found.folded, precision="bfloat16")


def keep_float32(layer: nn.Module) -> None:
    """Let a layer work in float32 amid lower precision; it stays where it is, and is still it.

    Defences look it up by its name, and bound its weights.
    """
    layer.forward = MethodType(_in_float32, layer)


def kept_float32(layer: nn.Module) -> bool:
    """Say whether a layer works in float32 amid lower precision."""
    return getattr(layer.forward, "__func__", None) is _in_float32


def _in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        output: Tensor = type(layer).forward(layer, features.float())
        return output


@torch.no_grad()
def _drawn(model: nn.Module, example: Images, seed: int) -> Tensor:
    """Give the logits of an example with the random draws of a seed."""
    with _seeded(example.device, seed):
        return model(example).float()


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Let models draw as a seed says; not by torch.manual_seed, which reseeds every device."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _agrees(candidate: SearchCopy, example: Images, expected: list[Tensor]) -> bool:
    """Measure a copy against its model, draw by draw, and say whether it is close enough."""
    try:
        logits = torch.cat(
            [_drawn(candidate, example, seed) for seed, _ in zip(_SEEDS, expected, strict=False)]
        )
    except (AttributeError, RuntimeError):  # it misses a layer, or has an operation for one type
        return False
    true = torch.cat(expected)
    deviation = true.std(correction=0).clamp_min(1e-12)
    candidate.error = float((logits - true).abs().max() / deviation)
    candidate.agreement = float((logits.argmax(1) == true.argmax(1)).float().mean())
    return candidate.error <= LIMITS[candidate.precision]
