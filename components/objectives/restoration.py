"""Restoration: a feature pyramid decoder learns to restore images, and then to classify them."""

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor, nn

from components.defences.restoration import Scope
from components.defences.two_phase import (
    OWN_UPDATE,
    Second,
    add_uniform_noise,
    find_decoder,
    two_phase_losses,
)
from components.objectives.crafting import Precision, attack_view
from components.tensors import Images, Targets


class Restoration:
    """Gives the two-phase losses of a model that wears a feature pyramid decoder outermost.

    Li et al., 2020, https://arxiv.org/abs/2005.02552; see `two_phase_losses`.

    Args:
        noise: largest change of a pixel that the decoder has to undo, where nothing attacks.
        attack: crafts what it has to undo instead, through the honest view.
        clean_share: weight of the clean images' losses beside those of the attacked ones; published
            is a half.
        threshold: of the restoration's error, below which the label is learnt as well.
        classification_weight: of the label's loss.
        restoration_weight: of the restoration's loss.
        second_restoration_weight: of the restoration from the restored image.
        gate_scope: what is trained above the threshold.
        second: the second phase, see `Second`.
        precision: of the copy that is attacked, or None for the model itself.

    Attributes:
        replays: times that the loop shall take the same batch, one after the other: twice where the
            second phase is an update of its own.

    Raises:
        ValueError: the noise is out of range, or there is a clean share and no attack.
    """

    def __init__(
        self,
        *,
        noise: float = 0.01,
        attack: Callable[..., Images] | None = None,
        clean_share: float = 0.0,
        threshold: float = 3.0,
        classification_weight: float = 1.0,
        restoration_weight: float = 1.0,
        second_restoration_weight: float = 1.0,
        gate_scope: Scope = "front_and_restore",
        second: Second = "summed",
        precision: Precision = None,
    ) -> None:
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must be in [0, 1], got {noise}")
        if clean_share and attack is None:
            raise ValueError("clean_share has no effect without an attack; leave it out")
        self._noise, self._attack, self._precision = noise, attack, precision
        self._losses = partial(
            two_phase_losses,
            clean_share=clean_share,
            threshold=threshold,
            classification_weight=classification_weight,
            restoration_weight=restoration_weight,
            second_restoration_weight=second_restoration_weight,
            gate_scope=gate_scope,
            second=second,
        )
        self.replays = 2 if second in OWN_UPDATE else 1
        self._phases: Iterator[dict[str, Tensor]] | None = None

    def __call__(
        self, model: nn.Module, images: Images, targets: Targets, *, seed: int | Tensor = 0
    ) -> dict[str, Tensor]:
        """Give the losses of the next update.

        Args:
            model: in training mode.
            images: float32 in [0, 1], what is to be restored.
            targets: class probabilities.
            seed: of noise and attack, one for all or one per image.

        Returns:
            ``loss``, its parts as far as they were computed, and ``gate``: 1 if the label was
            learnt. Behind a closed gate the second update descends nothing.

        Raises:
            ValueError: the model wears no decoder, or a number is out of range.
        """
        phases, self._phases = self._phases, None
        if phases:
            return next(phases, {"loss": images.new_zeros((), requires_grad=True)})
        decoder = find_decoder(model)
        if self._attack is None:
            noisy = add_uniform_noise(images, self._noise, seed=seed)
        else:
            with attack_view(model, images, self._precision) as view:
                noisy = self._attack(view, images, targets.argmax(1), seed=seed)
        phases = self._losses(decoder, images, targets, noisy=noisy)
        losses = next(phases)
        if self.replays > 1:
            self._phases = phases
        return losses
