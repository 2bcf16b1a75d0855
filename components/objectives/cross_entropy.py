"""Cross-entropy on the images as they come: ordinary training."""

from torch import Tensor, nn
from torch.nn import functional

from components.tensors import Images, Targets


def cross_entropy(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    label_smoothing: float = 0.0,
    seed: int = 0,  # noqa: ARG001  every objective takes one; this one draws nothing
) -> dict[str, Tensor]:
    """Give the mean cross-entropy to the targets.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities.
        label_smoothing: share of probability spread evenly over all classes.
        seed: without effect.

    Returns:
        ``loss``, the mean over the batch.
    """
    logits = model(images).float()
    return {"loss": functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)}
