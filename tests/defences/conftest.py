"""Small networks with blocks, and a decoder put on them."""

import pytest
import torch
from torch import nn

from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder


class Staged(nn.Module):
    """Three blocks, each half as large as the one before, and a dense layer."""

    latent_features = ("block1", "block2", "block3")

    def __init__(self, channels=3, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, padding=1, bias=False)
        for number, (before, width) in enumerate([(6, 6), (6, 8), (8, 10)], 1):
            stride = 1 if number == 1 else 2
            convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
            block = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ELU())
            self.add_module(f"block{number}", block)
        self.linear = nn.Linear(10, classes)

    def forward(self, images):
        features = self.block3(self.block2(self.block1(self.stem(images))))
        return self.linear(features.mean((2, 3)))


@pytest.fixture
def decoded():
    """Give a decoder on a small network, whose running averages know some images."""

    def make(**options) -> FeaturePyramidDecoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            decoder = FeaturePyramidDecoder(Staged(), **{"width": 5, **options}).train()
            for _ in range(10):
                decoder(torch.rand(8, 3, 16, 16))
        return decoder.eval()

    return make


@pytest.fixture
def pictures():
    """Eight images of 16 x 16 pixels."""
    return torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))
