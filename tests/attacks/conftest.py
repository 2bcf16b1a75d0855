"""A small network full of state that an attack might disturb."""

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def network() -> nn.Module:
    """In training mode but for one module, one weight frozen, gradients left from before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5))
        model(torch.rand(8, 3, 4, 4)).sum().backward()
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    return model


@pytest.fixture(scope="session")
def batch() -> tuple[Tensor, Tensor]:
    """Images with pixels on the walls of the box, and their labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(7, 3, 4, 4, generator=generator)
    images[0, :, 0], images[1, :, 0] = 0.0, 1.0
    return images, torch.arange(7) % 5
