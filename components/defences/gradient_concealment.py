"""Gradient concealment: a study object that hides gradients and adds no robustness at all."""

import math

import torch
from torch import nn

from components.defences.defended import Defended, honest_view
from components.tensors import Classifier, Images, Logits


class GradientConcealment(Defended):
    """Adds ``amplitude * sin(frequency * x)``, which changes gradients and nothing else.

    This is gradient masking: every input gradient is multiplied by a pseudo-random sign, while the
    decision function stays the same to about 1e-8. Attacked as it is, a model seems robust; through
    the honest view the effect is gone. Pei et al., 2022, https://arxiv.org/abs/2205.10617.

    Args:
        inner: the model behind it.
        frequency: w of the paper.
        amplitude: epsilon of the paper.

    Raises:
        ValueError: an option is not finite and positive, or their product is at most 1, where
            nothing is concealed.
    """

    def __init__(
        self, inner: nn.Module, *, frequency: float = 1e20, amplitude: float = 1e-8
    ) -> None:
        super().__init__(inner)
        if not (math.isfinite(frequency) and frequency > 0 and 0 < amplitude < math.inf):
            raise ValueError(
                f"frequency and amplitude must be finite and above 0, got {frequency}, {amplitude}"
            )
        if frequency * amplitude <= 1:
            raise ValueError(
                "frequency * amplitude must be above 1, or no gradient changes its sign, "
                f"got {frequency * amplitude:g}"
            )
        self.frequency, self.amplitude = frequency, amplitude

    def forward(self, images: Images) -> Logits:
        """Classify images whose gradients are scrambled.

        The sine is taken in float32 whatever the images are: 1e20 overflows half precision.
        """
        wave = torch.sin(self.frequency * images.float())
        return self.inner(images + (self.amplitude * wave).to(images.dtype))

    def honest_view(self, draws: int) -> Classifier:
        """Leave the layer out."""
        return honest_view(self.inner, draws=draws)
