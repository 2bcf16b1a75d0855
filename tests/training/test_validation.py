"""What validation sees of a model's gradients, where that is known."""

import pytest
import torch
from torch import nn

from components.training.config import TrainingConfig
from components.training.processes import Processes
from components.training.train import streams
from components.training.validation import zero_gradients

SETTINGS = TrainingConfig(
    objective={"name": "cross_entropy"}, selection={"name": "random_noise", "epsilon": 0.1}
)


class Half(nn.Module):
    """Looks at the left half of an image alone."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(0.01 * torch.randn(10, 28, 14, generator=generator))

    def forward(self, images):
        return torch.einsum("bhw,chw->bc", images[:, 0, :, :14], self.weight)


def test_pixels_without_a_gradient_are_counted(digits_shards):
    _, validation = streams(SETTINGS, digits_shards)
    seen = zero_gradients(Half(), validation, SETTINGS, Processes())
    assert seen == pytest.approx(0.5, abs=0.01)
