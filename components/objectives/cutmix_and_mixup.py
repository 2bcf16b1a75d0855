"""Cross-entropy three times: on the images, on the same after CutMix, and after Mixup."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.augmentations.cutmix import cutmix
from components.augmentations.mixup import mixup
from components.tensors import Images, Targets


def cutmix_and_mixup(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    clean_weight: float = 1.0,
    cutmix_weight: float = 1.0,
    mixup_weight: float = 1.0,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Give the weighted sum of the three, each from a forward pass of its own.

    The final training code of Pei et al., 2022, https://arxiv.org/abs/2205.10617. What an
    augmentation does to a batch replaces it; here the model learns from all three forms at once.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities.
        clean_weight: of the images as they come.
        cutmix_weight: of those after CutMix.
        mixup_weight: of those after Mixup.
        alpha: of both mixtures.
        label_smoothing: share of probability spread evenly over all classes.
        seed: of the mixtures.

    Returns:
        ``loss`` and its parts ``clean_loss``, ``cutmix_loss`` and ``mixup_loss``, means over the
        batch; a part without weight is left out, and costs nothing.

    Raises:
        ValueError: a weight is negative, or all are 0.
    """
    weights = {"clean": clean_weight, "cutmix": cutmix_weight, "mixup": mixup_weight}
    if min(weights.values()) < 0 or not any(weights.values()):
        raise ValueError(f"weights must be at least 0, and one of them above, got {weights}")
    generator = torch.Generator(images.device).manual_seed(seed)
    forms = {
        "clean": lambda: (images, targets),
        "cutmix": lambda: cutmix(images, targets, alpha=alpha, generator=generator),
        "mixup": lambda: mixup(images, targets, alpha=alpha, generator=generator),
    }
    loss, parts = images.new_zeros(()), {}
    for name, weight in weights.items():
        if weight:
            seen, wanted = forms[name]()
            logits = model(seen).float()
            part = functional.cross_entropy(logits, wanted, label_smoothing=label_smoothing)
            loss = loss + weight * part
            parts[f"{name}_loss"] = part.detach()
    return {"loss": loss, **parts}
