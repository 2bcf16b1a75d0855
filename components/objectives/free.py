"""Free adversarial training: one backward pass for the weights and for the attack."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.defences.defended import is_defended
from components.tensors import Images, Targets, bounded


class Free:
    """Trains on every batch several times, with an attack that advances by one step each time.

    Shafahi et al., 2019, https://arxiv.org/abs/1904.12843, algorithm 1. The step is taken along the
    gradient that the loss's own backward pass leaves behind, so it is one call late; the
    perturbation is carried over to the next batch. Train for `replays` times fewer epochs.

    Args:
        epsilon: radius in pixel units, for linf.
        step_size: in pixel units; None takes epsilon.
        replays: times that the loop shall take the same batch, one after the other.

    Attributes:
        replays: as above.

    Raises:
        ValueError: epsilon or the step size is negative, or there is no replay.
    """

    def __init__(self, *, epsilon: float, step_size: float | None = None, replays: int = 8) -> None:
        self.epsilon = epsilon
        self.step_size = epsilon if step_size is None else step_size
        self.replays = replays
        if not (0 <= epsilon <= 1 and self.step_size >= 0):
            raise ValueError(
                "epsilon must be in [0, 1] and step_size at least 0, "
                f"got {epsilon} and {self.step_size}"
            )
        if replays < 1:
            raise ValueError(f"replays must be at least 1, got {replays}")
        self._carried: Tensor | None = None
        self._latest: Tensor | None = None

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        targets: Targets,
        *,
        seed: int = 0,  # noqa: ARG002  every objective takes one; this one draws nothing
    ) -> dict[str, Tensor]:
        """Give the cross-entropy on images with the perturbation as it is by now.

        One gradient trains the model and moves the perturbation. Behind a defence they are two: the
        model's own may be masked, and the honest view may have other answers in training mode.

        Args:
            model: in training mode, without defences.
            images: float32 in [0, 1].
            targets: class probabilities.
            seed: without effect.

        Returns:
            ``loss``, the mean over the batch. Its backward pass prepares the next step.

        Raises:
            ValueError: the model wears a defence.
        """
        if is_defended(model):
            raise ValueError(
                "free attacks along the gradient that trains the model, which a defence may mask; "
                "leave the defences out, or take fgsm_rs, which attacks through their honest view"
            )
        shift = self._advanced(images)[: len(images)].clone().requires_grad_(True)
        self._latest = shift
        # The gradient stops at pixels that leave [0, 1], as in the published code.
        logits = model(bounded(images + shift))
        return {"loss": functional.cross_entropy(logits.float(), targets)}

    def state(self) -> dict[str, Tensor]:
        """Give what has to be kept to go on from here."""
        self._advance()
        return {} if self._carried is None else {"perturbation": self._carried.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        carried = state.get("perturbation")
        self._carried, self._latest = None if carried is None else carried.clone(), None

    def _advanced(self, images: Images) -> Tensor:
        """Give what is carried by now, by at least a batch."""
        self._advance()
        carried = self._carried
        if carried is None or carried.shape[1:] != images.shape[1:]:
            carried = torch.zeros_like(images)
        if len(carried) < len(images):
            more = images.new_zeros(len(images) - len(carried), *images.shape[1:])
            carried = torch.cat([carried.to(images.device), more])
        self._carried = carried.to(images.device)
        return self._carried

    @torch.no_grad()
    def _advance(self) -> None:
        """Take the step of the last backward pass, if there was one."""
        if self._latest is None or self._latest.grad is None or self._carried is None:
            return
        step = self._latest.grad.sign().mul_(self.step_size)
        self._carried[: len(step)].add_(step).clamp_(-self.epsilon, self.epsilon)
        self._latest = None
