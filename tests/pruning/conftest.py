"""A small classifier of random weights, and ways to set its gates."""

import numpy as np
import pytest
import torch

from components.data.shards import Example, write_shards
from components.models.build import Model, ModelSpec, build_model
from components.pruning.gates import BetaBernoulliGate

SMALL_WIDTHS = (4, 6, 96, 12)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_model():
    def make(widths=SMALL_WIDTHS, defences=()) -> Model:
        spec = ModelSpec(
            backbone={"name": "lenet5", "widths": list(widths)},
            defences=defences,
            classes=tuple("0123456789"),
            image_shape=(1, 28, 28),
            mean=(0.2,),
            deviation=(0.4,),
        )
        model = build_model(spec)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # a zero bias would hide a fold that forgets it
                torch.nn.init.normal_(parameter)
        return model.eval()

    return make


@pytest.fixture
def images():
    return torch.rand(16, 1, 28, 28)


@pytest.fixture
def open_only():
    """Set a gate so that just these units are open, each with its own keep probability."""

    def open_only(gate: BetaBernoulliGate, is_open: torch.Tensor) -> None:
        raw_a = torch.where(is_open, torch.rand(len(is_open)) * 4 - 1, torch.tensor(-9.0))
        gate.raw_a.data.copy_(raw_a)

    return open_only


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Grey images of two classes, bright at the top or at the bottom."""
    draws = np.random.default_rng(0)
    examples = []
    for position in range(200):
        pixels = draws.integers(0, 100, (28, 28, 1), dtype=np.uint8)
        pixels[14 * (position % 2) :][:14] += 100
        split = ("train", "train", "train", "validation", "test")[position // 2 % 5]
        examples.append(Example(split, position % 2, pixels, str(position)))
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, examples, classes=("top", "bottom"), shard_images=100)
    return folder
