"""Restoration: a feature pyramid decoder learns to restore images, and then to classify them."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from components.defences.restoration import Scope
from components.defences.two_phase import add_uniform_noise, find_decoder, two_phase_losses
from components.objectives.crafting import Precision, attack_view
from components.tensors import Images, Targets


def restoration(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    noise: float = 0.01,
    attack: Callable[..., Images] | None = None,
    threshold: float = 3.0,
    classification_weight: float = 1.0,
    restoration_weight: float = 1.0,
    second_restoration_weight: float = 1.0,
    gate_scope: Scope = "front_and_restore",
    second: Literal["summed", "through", "none"] = "summed",
    precision: Precision = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give the two-phase losses of a model that wears a feature pyramid decoder outermost.

    Li et al., 2020, https://arxiv.org/abs/2005.02552; see `two_phase_losses`.

    Args:
        model: in training mode.
        images: float32 in [0, 1], what is to be restored.
        targets: class probabilities.
        noise: largest change of a pixel that the decoder has to undo, where nothing attacks.
        attack: crafts what it has to undo instead, through the honest view.
        threshold: of the restoration's error, below which the label is learnt as well.
        classification_weight: of the label's loss.
        restoration_weight: of the restoration's loss.
        second_restoration_weight: of the restoration from the restored image.
        gate_scope: what is trained above the threshold.
        second: whether the second phase's gradient reaches what has restored the image.
        precision: of the copy that is attacked, or None for the model itself.
        seed: of noise and attack, one for all or one per image.

    Returns:
        ``loss``, its parts as far as they were computed, and ``gate``: 1 if the label was learnt.

    Raises:
        ValueError: the model wears no decoder, or a number is out of range.
    """
    decoder = find_decoder(model)
    if attack is None:
        noisy = add_uniform_noise(images, noise, seed=seed)
    else:
        with attack_view(model, images, precision) as view:
            noisy = attack(view, images, targets.argmax(1), seed=seed)
    return two_phase_losses(
        decoder,
        images,
        targets,
        noisy=noisy,
        threshold=threshold,
        classification_weight=classification_weight,
        restoration_weight=restoration_weight,
        second_restoration_weight=second_restoration_weight,
        gate_scope=gate_scope,
        second=second,
    )
