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


WEIGHTS = [[2, -1, 0.5, 0], [0.5, 1, -1, 0.5], [-1, 0.5, 1, 1]]


@pytest.fixture
def tiny():
    """Three classes, four pixels: build it with biases and pixels of a worked case; y = 0."""

    def build(biases: list[float], pixels: list[float]) -> tuple[nn.Module, Tensor, Tensor]:
        layer = nn.Linear(4, 3)
        layer.weight.data, layer.bias.data = torch.tensor(WEIGHTS), torch.tensor(biases)
        model = nn.Sequential(nn.Flatten(), layer)
        return model, torch.tensor(pixels).view(1, 1, 1, 4), torch.tensor([0])

    return build


@pytest.fixture
def one_pixel():
    """A model of one pixel with two classes, whose margin for class 0 is a given function."""

    def build(margin):
        def model(images: Tensor) -> Tensor:
            difference = margin(images.flatten(1))
            return torch.cat([torch.zeros_like(difference), difference], 1)

        return model

    return build
