"""Mixup: each image and its target are blended with another of the batch."""

import torch

from components.tensors import Images, PerSample, Targets


def mixup(
    images: Images, targets: Targets, *, alpha: float = 1.0, generator: torch.Generator
) -> tuple[Images, Targets]:
    """Blend each image with a random partner, with weights from Beta(alpha, alpha).

    Zhang et al., 2018, https://arxiv.org/abs/1710.09412. Differs from the paper's code: the weight
    is drawn per image, not per batch.

    Args:
        images: float in [0, 1].
        targets: class probabilities, blended alike.
        alpha: 0 blends nothing, 1 draws weights uniformly, larger ones draw them near one half.
        generator: on the images' device.

    Raises:
        ValueError: alpha is below 0.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}")
    if alpha == 0:
        return images, targets
    weight = symmetric_beta(alpha, len(images), generator)
    partner = torch.randperm(len(images), generator=generator, device=generator.device)
    return (
        torch.lerp(images[partner], images, weight.view(-1, 1, 1, 1)),
        torch.lerp(targets[partner], targets, weight.view(-1, 1)),
    )


def symmetric_beta(alpha: float, count: int, generator: torch.Generator) -> PerSample:
    """Draw from Beta(alpha, alpha) without rejection, from two uniform numbers each.

    With T = √(2α(U^(−1/α) − 1)) cos 2πV, which has Student's distribution with 2α degrees of
    freedom (Bailey, 1994, Mathematics of Computation 62), (1 + T / √(2α + T²)) / 2 is the weight.
    """
    u, v = torch.rand(2, count, generator=generator, device=generator.device)
    power = u ** (1 / alpha)
    cosine = torch.cos(2 * torch.pi * v)
    return (1 + cosine / torch.sqrt(power / (1 - power) + cosine * cosine)) / 2
