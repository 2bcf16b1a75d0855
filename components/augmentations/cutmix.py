"""CutMix: a box of each image shows another of the batch, and targets are blended by area."""

import torch

from components.augmentations.mixup import symmetric_beta
from components.tensors import Images, PerSample, Targets


def cutmix(
    images: Images, targets: Targets, *, alpha: float = 1.0, generator: torch.Generator
) -> tuple[Images, Targets]:
    """Paste a box of a random partner into each image.

    Yun et al., 2019, https://arxiv.org/abs/1905.04899: with λ from Beta(alpha, alpha), the box has
    √(1 − λ) of each side and its centre anywhere; the targets' weight is the area that is left,
    once the box is cut at the edges. Differs from the paper's code: drawn per image, not per batch.

    Args:
        images: float in [0, 1].
        targets: class probabilities, blended alike.
        alpha: 0 pastes nothing, 1 draws λ uniformly, larger ones draw it near one half.
        generator: on the images' device.

    Raises:
        ValueError: alpha is below 0.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}")
    if alpha == 0:
        return images, targets
    count, _, height, width = images.shape
    share = (1 - symmetric_beta(alpha, count, generator)).sqrt()
    rows, columns = (_stretch(length, share, generator) for length in (height, width))
    partner = torch.randperm(count, generator=generator, device=generator.device)
    inside = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
    covered = rows.sum(1) * columns.sum(1) / (height * width)
    return (
        torch.where(inside, images[partner], images),
        torch.lerp(targets, targets[partner], covered.view(-1, 1)),
    )


def _stretch(length: int, share: PerSample, generator: torch.Generator) -> torch.Tensor:
    """Mark a share of the places along a side, around a centre drawn for each image."""
    device = generator.device
    side = (share * length).floor().long()
    centre = torch.randint(length, share.shape, generator=generator, device=device)
    place = torch.arange(length, device=device) - (centre - side // 2).view(-1, 1)
    return (place >= 0) & (place < side.view(-1, 1))
