"""May this model be attacked as it is? What is found out before any attack."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.attacks.gradients import input_gradient, untouched
from components.attacks.losses import margin
from components.defences.defended import is_randomised
from components.evaluation import facts
from components.evaluation.config import EvaluationConfig
from components.evaluation.facts import INTERACTS, LEAKS, SAME_DIRECTION
from components.evaluation.report import Check
from components.evaluation.tracing import traced
from components.randomness import sample_seeds, uniform
from components.tensors import Images, Labels, Logits

_PROBED = 32  # images
_ALONE = 4  # of these, passed through the model one by one
_PASSES = 5  # of one batch: AutoAttack's rule for randomness
_PROBABILITY = 1e-5
_NUDGE = 1e-4  # of a pixel: what a model that rounds its input does not notice

# What a model raises that cannot be asked in the way it was asked.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a model is like, and what speaks against attacking it as it is.

    Attributes:
        randomised: forward passes of one batch differ.
        separate: images of a batch do not influence each other, and one may come alone.
        sociable: an image must not come alone.
        probabilities: the model gives probabilities instead of logits.
        differentiable: a gradient reaches the pixels.
        optimises: the model takes gradients itself whenever it classifies.
        num_classes: that it tells apart.
        digits: bits with which the least exact part of the model computes, sign and leading one
            left out: 23 for float32, 10 for float16, 7 for bfloat16.
        checks: of section P.
    """

    randomised: bool
    separate: bool
    sociable: bool
    probabilities: bool
    differentiable: bool
    optimises: bool
    num_classes: int
    digits: int
    checks: tuple[Check, ...]


def inspect_model(
    model: nn.Module, images: Images, labels: Labels, settings: EvaluationConfig
) -> Preflight:
    """Look at a model with a few forward passes and one gradient.

    Raises:
        ValueError: the model is on another device, does not give finite logits of shape (batch,
            classes), knows fewer classes than the labels, or lets images of a batch interact.
    """
    _check_device(model, images)
    training = sum(module.training for module in model.modules())
    size = min(_PROBED, settings.batch_size)
    probe, true = images[:size], labels[:size]
    with torch.random.fork_rng(), untouched(model), torch.no_grad():
        torch.manual_seed(settings.seed)
        logits, trace = traced(model, lambda: _logits(model, probe))
        num_classes = _count_classes(logits, labels)
        drawn = torch.stack([logits, *(_logits(model, probe) for _ in range(_PASSES - 1))])
        randomised = is_randomised(model) or _differs(drawn, true)
        leak = 0.0 if randomised else _leak(model, probe, logits)
        alone = _distance_alone(model, probe, logits)
        gradient = _gradient(model, probe, true)
        flat = 0.0 if randomised else _flat_share(model, probe, logits)
    probabilities = _are_probabilities(logits)
    return Preflight(
        randomised=randomised,
        separate=not randomised and leak <= LEAKS and alone is not None and alone <= INTERACTS,
        sociable=alone is None,
        probabilities=probabilities,
        differentiable=gradient is not None,
        optimises=trace.optimises,
        num_classes=num_classes,
        digits=trace.digits,
        checks=(
            facts.report_mode(training),
            facts.report_randomness(
                _spread(drawn), randomised=randomised, declared=is_randomised(model)
            ),
            facts.report_company(leak, None if randomised else alone, randomised=randomised),
            facts.report_probabilities(probabilities),
            facts.report_log_softmax(logits),
            facts.report_path(gradient),
            facts.report_numbers(gradient),
            facts.report_range(images),
            facts.report_classes(num_classes, labels),
            facts.report_optimisation(trace),
            facts.report_rounding(gradient, flat),
            facts.report_precision(trace),
            facts.report_passes(trace),
        ),
    )


def _check_device(model: nn.Module, images: Images) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != images.device:
            raise ValueError(
                f"the model must be on the images' device, got the model on {tensor.device} and "
                f"images on {images.device}; move one of them with .to(device)"
            )


def _logits(model: nn.Module, images: Images) -> Logits:
    """Classify, and refuse what no attack could use."""
    try:
        logits = model(images)
    except _REFUSALS as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the model must classify images of shape {tuple(images.shape)}; its forward pass "
            f"failed with {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model must return logits of shape (batch, classes), got {type(logits).__name__}; "
            "wrap it in a module whose forward picks the logits out"
        )
    if logits.ndim != 2 or len(logits) != len(images) or not logits.is_floating_point():
        raise ValueError(
            "the model must return floating-point logits of shape (batch, classes), got "
            f"{logits.dtype} of shape {tuple(logits.shape)} for {len(images)} images"
        )
    if not bool(logits.isfinite().all()):
        raise ValueError("the model's logits are not finite; it cannot be evaluated")
    return logits.float()


def _count_classes(logits: Logits, labels: Labels) -> int:
    num_classes = logits.shape[1]
    if num_classes < 2:
        raise ValueError(
            f"the model must tell at least 2 classes apart, got {num_classes} logit; a model with "
            "a single logit z needs a wrapper that returns (0, z)"
        )
    if (largest := int(labels.max())) >= num_classes:
        raise ValueError(
            f"labels must be below the model's {num_classes} classes, got {largest}; is this the "
            "model for this data?"
        )
    return num_classes


def _differs(drawn: Tensor, labels: Labels) -> bool:
    """Apply AutoAttack's rule: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690."""
    right = (drawn.argmax(2) == labels).sum(1)
    return bool((right != right[0]).any()) or _spread(drawn) > SAME_DIRECTION


def _spread(drawn: Tensor) -> float:
    """Give the largest distance between two passes' logits, scaled to length one."""
    scaled = drawn / drawn.norm(dim=2, keepdim=True).clamp_min(1e-38)
    return max(float((one - scaled).norm(dim=2).max()) for one in scaled)


def _leak(model: nn.Module, images: Images, logits: Logits) -> float:
    """Change every second image of the batch and see whether the others' logits follow.

    The batch keeps its size and the others their places, so rounding cannot tell the two apart.

    Raises:
        ValueError: they follow so far that an attack on one image is an attack on all of them.
    """
    company = images.clone()
    company[1::2] = 1 - company[1::2].flip(0)
    leak = _relative((_logits(model, company) - logits)[::2], logits)
    if leak > INTERACTS:
        raise ValueError(
            "the model must classify each image by itself, but its logits change by "
            f"{leak:.1g} of their spread with the other images of the batch, also in evaluation "
            "mode; replace what computes statistics over the batch"
        )
    return leak


def _distance_alone(model: nn.Module, images: Images, logits: Logits) -> float | None:
    """Compare images that come alone with the same ones in a batch; None if none may come alone."""
    try:
        alone = [_logits(model, image[None]) for image in images[:_ALONE]]
    except ValueError:
        if len(images) == 1:
            raise
        return None
    return _relative(torch.cat(alone) - logits[:_ALONE], logits)


def _relative(difference: Logits, logits: Logits) -> float:
    spread = logits.std(1).mean().clamp_min(1e-12)
    return float(difference.abs().max() / spread)


def _gradient(model: nn.Module, images: Images, labels: Labels) -> Images | None:
    try:
        return input_gradient(model, images, lambda logits: margin(logits, labels), raw=True)[1]
    except _REFUSALS:
        return None  # asked without gradients, the same model did give logits


def _flat_share(model: nn.Module, images: Images, logits: Logits) -> float:
    """Give the share of images whose logits do not change at all with their pixels."""
    seeds = sample_seeds(0, len(images), images.device)
    signs = (uniform(seeds, tuple(images.shape[1:]), stream=0) - 0.5).sign()
    nudged = _logits(model, (images + _NUDGE * signs).clamp(0, 1))
    return float((nudged == logits).all(1).float().mean())


def _are_probabilities(logits: Logits) -> bool:
    inside = (logits > -_PROBABILITY) & (logits < 1 + _PROBABILITY)
    return bool(inside.all()) and bool(((logits.sum(1) - 1).abs() < _PROBABILITY).all())
