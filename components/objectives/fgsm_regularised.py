"""FGSM as a regulariser: cross-entropy on clean and mixed images and on pairs one step away."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.attacks.gradients import check_images
from components.augmentations.cutmix import cutmix
from components.augmentations.mixup import mixup
from components.objectives.crafting import View, attack_view
from components.tensors import Images, Labels, Targets


def fgsm_regularised(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    fgsm_weight: float = 1.0,
    targeted_weight: float = 1.0,
    mixup_weight: float = 1.0,
    cutmix_probability: float = 0.3,
    smallest_epsilon: float = 0.001,
    largest_epsilon: float = 0.08,
    epsilons: int = 20,
    pairs: bool = True,
    labels: Literal["true", "predicted"] = "true",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Add to the cross-entropy those on images one step of FGSM away, in both directions.

    The first phase of Pei et al., 2022, https://arxiv.org/abs/2205.10617. Each batch draws one
    epsilon for each of two attacks, the untargeted one and one towards classes drawn at random.
    Differs from the published code: the images are attacked through the honest view, since behind
    gradient concealment the step is nothing but noise; and only the mixed images have mixed labels.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities.
        fgsm_weight: of the images after the untargeted attack.
        targeted_weight: of those after the targeted one.
        mixup_weight: of the images after Mixup.
        cutmix_probability: with which the first part takes the batch after CutMix.
        smallest_epsilon: of the evenly spaced radii, in pixel units.
        largest_epsilon: of these.
        epsilons: how many there are.
        pairs: take the step and its opposite, instead of the step alone.
        labels: what attacked images are learnt as: the targets, or what the model now takes the
            clean image for.
        seed: of all draws.

    Returns:
        ``loss`` and its parts: ``clean_loss``, and where they have weight ``mixup_loss``,
        ``fgsm_loss`` and ``targeted_loss``; means over the batch.

    Raises:
        ValueError: a weight is negative, the probability or a radius lies outside [0, 1], or there
            is no radius.
    """
    check_images(images, targets.argmax(1))
    weights = {"fgsm": fgsm_weight, "targeted": targeted_weight, "mixup": mixup_weight}
    _check(weights, cutmix_probability, smallest_epsilon, largest_epsilon, epsilons)
    generator = torch.Generator(images.device).manual_seed(seed)
    grid = torch.linspace(smallest_epsilon, largest_epsilon, epsilons).tolist()
    radii = [grid[int(_below(epsilons, 1, generator))] for _ in range(2)]
    goals = _below(targets.shape[1], len(images), generator)
    with torch.no_grad(), attack_view(model, images, None) as view:
        slopes, predicted = _slopes(view, images, targets, goals)
    learnt = targets if labels == "true" else predicted
    forms = {
        "clean": (1.0, (images, targets)),
        "mixup": (mixup_weight, mixup(images, targets, generator=generator)),
        "fgsm": (fgsm_weight, _stepped(images, learnt, slopes[0], radii[0], pairs)),
        "targeted": (targeted_weight, _stepped(images, learnt, -slopes[1], radii[1], pairs)),
    }
    if torch.rand((), generator=generator, device=images.device) < cutmix_probability:
        forms["clean"] = (1.0, cutmix(images, targets, generator=generator))
    loss, parts = images.new_zeros(()), {}
    for name, (weight, (seen, wanted)) in forms.items():
        if weight:
            part = functional.cross_entropy(model(seen).float(), wanted)
            loss = loss + weight * part
            parts[f"{name}_loss"] = part.detach()
    return {"loss": loss, **parts}


def _check(
    weights: dict[str, float], probability: float, smallest: float, largest: float, epsilons: int
) -> None:
    if min(weights.values()) < 0:
        raise ValueError(f"weights must be at least 0, got {weights}")
    if not 0 <= probability <= 1:
        raise ValueError(f"cutmix_probability must be in [0, 1], got {probability}")
    if not 0 <= smallest <= largest <= 1 or epsilons < 1:
        raise ValueError(
            "epsilons must be at least one, from smallest to largest within [0, 1], "
            f"got {epsilons} from {smallest} to {largest}"
        )


def _below(limit: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(limit, (count,), generator=generator, device=generator.device)


def _slopes(
    view: View, images: Images, targets: Targets, goals: Labels
) -> tuple[tuple[Images, Images], Targets]:
    """Give the gradients of both attacks' losses from one forward pass, and the predictions."""
    points = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = view(points).float()
        away = functional.cross_entropy(logits, targets, reduction="sum")
        towards = functional.cross_entropy(logits, goals, reduction="sum")
    (first,) = torch.autograd.grad(away, points, retain_graph=True)
    (second,) = torch.autograd.grad(towards, points)
    predicted = functional.one_hot(logits.argmax(1), logits.shape[1]).to(targets.dtype)
    return (first, second), predicted


def _stepped(
    images: Images, targets: Targets, slope: Images, epsilon: float, pairs: bool
) -> tuple[Tensor, Tensor]:
    """Take a step along the signs of the slope, for pairs its opposite as well, within [0, 1]."""
    step = epsilon * slope.sign()
    there = (images + step).clamp_(0, 1)
    if not pairs:
        return there, targets
    return torch.cat([there, (images - step).clamp_(0, 1)]), torch.cat([targets, targets])
