"""What validation sees of a model's gradients, where that is known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from components.attacks.fgsm import fgsm
from components.data.stream import Stream
from components.training.config import TrainingConfig
from components.training.processes import Processes
from components.training.train import streams
from components.training.validation import look_at, zero_gradients

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


@pytest.mark.parametrize("batch_size", [4, 100, 1000])
def test_a_look_is_at_the_same_images_whatever_the_batch_size(batch_size, digits_shards):
    """At 256 of them, or all: the validation split has 130, the training split more."""
    settings = replace(SETTINGS, objective={"name": "fgsm_rs", "epsilon": 0.1})
    settings = replace(settings, collapse_epsilon=0.001)
    model = Half()
    for split, count in (("validation", 130), ("train", 256)):
        stream = Stream(digits_shards, split, batch_size=batch_size)
        whole = next(Stream(digits_shards, split, batch_size=count).in_order())
        seen = look_at(model, stream, settings, Processes())
        attacked = fgsm(model, whole.images, whole.labels, epsilon=0.001)
        right = model(attacked).argmax(1) == whole.labels
        assert len(right) == count
        assert seen.fgsm_accuracy == pytest.approx(float(right.float().mean()))


def test_shares_of_a_look_add_up(digits_shards):
    """Two ranks, one after the other; what they would add up is put together here."""
    settings = replace(SETTINGS, objective={"name": "fgsm_rs", "epsilon": 0.1})
    settings = replace(settings, collapse_epsilon=0.01)
    told = []

    class Listening(Processes):
        def add_up(self, values, device):
            told.append(values)
            return dict(values)

    for rank, world in ((0, 1), (0, 2), (1, 2)):
        stream = Stream(digits_shards, "train", batch_size=7, rank=rank, world=world)
        look_at(Half(), stream, settings, Listening())
    whole, *shares = told
    for name, total in whole.items():
        assert sum(share[name] for share in shares) == pytest.approx(total)
