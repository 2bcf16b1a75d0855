"""A small network full of state that an attack might disturb."""

from typing import NamedTuple

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


class Sphere(NamedTuple):
    """A ball of class 1 in class 0, with images inside and outside, far from the walls."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    distances: dict[str, Tensor]
    """Norm (l2 or linf) to the distance of each image from the surface."""


class DistanceClassifier(nn.Module):
    """Logits 0 and ``r^2 - |x - c|^2``."""

    def __init__(self, radius: float, centre: Tensor) -> None:
        super().__init__()
        self.radius, self.centre = radius, centre

    def forward(self, images: Tensor) -> Tensor:
        inside = self.radius**2 - (images - self.centre).square().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(inside), inside], 1)


@pytest.fixture(scope="session")
def sphere() -> Sphere:
    """Twelve images inside and twelve outside, at 0.2 to 1.8 radii from the centre."""
    generator = torch.Generator().manual_seed(2)
    centre = 0.45 + 0.1 * torch.rand(1, 3, 4, 4, generator=generator)
    directions = torch.randn(24, 48, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    radius, far = 0.5, 0.5 * torch.cat([torch.linspace(0.2, 0.9, 12), torch.linspace(1.1, 1.8, 12)])
    offsets = directions * far[:, None]
    distances = {"l2": (far - radius).abs(), "linf": surface_linf(offsets.double(), radius)}
    model = DistanceClassifier(radius, centre)
    images = centre + offsets.view(24, 3, 4, 4)
    return Sphere(model, images, (far < radius).long(), distances)


def surface_linf(offsets: Tensor, radius: float) -> Tensor:
    """Bisect for the shift of all coordinates that takes each offset to the given length."""
    outward = offsets.norm(dim=1, keepdim=True) < radius
    near, beyond = torch.zeros(len(offsets), 1).double(), torch.ones(len(offsets), 1).double()
    for _ in range(60):
        shift = (near + beyond) / 2
        moved = torch.where(outward, offsets.abs() + shift, (offsets.abs() - shift).clamp_min(0))
        reached = (moved.norm(dim=1, keepdim=True) >= radius) == outward
        near, beyond = torch.where(reached, near, shift), torch.where(reached, shift, beyond)
    return beyond.squeeze(1).float()
