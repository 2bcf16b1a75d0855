"""Average: weights averaged over the steps of training, which often withstand more."""

import copy

import torch
from torch import nn


class Average:
    """An exponential moving average of a model's parameters; buffers are those of the model.

    Polyak and Juditsky, 1992; for adversarial training see Gowal et al., 2020,
    https://arxiv.org/abs/2010.03593, section 4.4. After t steps the decay is at most
    (1 + t) / (10 + t), so that the first steps, far from where training ends, are soon forgotten.

    Args:
        model: what is averaged.
        decay: share of the average that each step keeps, in [0, 1).

    Attributes:
        model: the averaged model, on the same device.
        steps: how many went into it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.steps, self._decay = 0, decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        averages = [p.detach() for p in self.model.parameters()]
        torch._foreach_lerp_(averages, [p.detach() for p in model.parameters()], 1 - decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
