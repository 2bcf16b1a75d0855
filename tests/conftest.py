"""Shapes of tensors are enforced, and the linear problem whose robust accuracy is known."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Before torch is loaded: threads that spin while they wait fight with the processes tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from components.data.config import DataConfig
from components.data.prepare import prepare

# Rooms whose values are tensors. Doors stay out: Kubeflow sends a step's source as it is written.
# So do settings, which check themselves and say more about what is wrong.
CHECKED = ("attacks", "defences", "models.lenet", "models.timm_models", "objectives")
jaxtyping.install_import_hook(
    [f"components.{room}" for room in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# The same examples every time, and no clock: a test fails because of the code or not at all.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


class LinearProblem(NamedTuple):
    """A linear classifier with images of which it gets 85.75 % right."""

    model: nn.Module
    images: Tensor
    labels: Tensor

    @torch.no_grad()
    def robust_accuracy(self, adversarial: Tensor, model: nn.Module | None = None) -> float:
        """Share of images that are right both clean and attacked."""
        predictions = [(model or self.model)(images) for images in (self.images, adversarial)]
        right = [logits.argmax(1) == self.labels for logits in predictions]
        return float((right[0] & right[1]).double().mean())


@pytest.fixture(scope="session")
def lin400() -> LinearProblem:
    """Four mean images with noise, told apart by the nearest mean."""
    generator = np.random.Generator(np.random.PCG64(0))
    means = generator.uniform(0.4, 0.6, (4, 3, 8, 8))
    labels = np.arange(400) % 4
    images = np.clip(means[labels] + 0.35 * generator.standard_normal((400, 3, 8, 8)), 0, 1)
    weights = torch.tensor(means.reshape(4, -1))
    layer = nn.Linear(192, 4)
    layer.weight.data = weights.float()
    layer.bias.data = (-weights.square().sum(1) / 2).float()
    model = nn.Sequential(nn.Flatten(), layer).eval()
    return LinearProblem(model, torch.tensor(images).float(), torch.tensor(labels))


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Let wrong types through to the function, as they are outside the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def digits_shards(tmp_path_factory) -> Path:
    """The handwritten digits, prepared as the digits recipe does."""
    folder = tmp_path_factory.mktemp("digits")
    prepare(DataConfig(source={"name": "digits"}, image_size=28), folder)
    return folder
