"""Renewed copies follow their model from step to step, and are compared with it now and then."""

import pytest
import torch
from torch import nn

from components.attacks.acceleration import search_copy
from components.attacks.gradients import untouched
from components.models.build import ModelSpec, build_model
from components.objectives import choose_objective, renewal
from components.objectives.renewal import renewed_copy

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
precisions = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


class Small(nn.Module):
    """Its last convolution sees few places, and its head carries the name that copies use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pool, self.layer = nn.MaxPool2d(4), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Sequential()
        self.head.layer = nn.Linear(32, 4)

    def forward(self, images):
        features = self.pool(self.norm(self.first(images)).relu())
        return self.head.layer(self.layer(features).flatten(1))


def shaken(model):
    """As after a step: other weights and other running averages."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.norm.running_mean.normal_(0, 0.2, generator=generator)
    model.norm.running_var.uniform_(0.5, 2, generator=generator)
    return model


@precisions
def test_it_is_what_a_search_copy_would_be(precision):
    model = Small().eval()
    with untouched(model):
        renewed_copy(model, IMAGES, precision=precision)
        shaken(model)
        renewed = renewed_copy(model, IMAGES, precision=precision)
        expected = search_copy(model, IMAGES, precision=precision)
        assert (renewed.precision, renewed.folded) == (expected.precision, expected.folded)
        assert renewed.folded == 1
        assert torch.allclose(renewed(IMAGES), expected(IMAGES), atol=1e-6)
        dtypes = [p.dtype for p in renewed.parameters()]
        assert dtypes == [p.dtype for p in expected.parameters()]


def test_it_shares_nothing_with_the_model():
    model = Small().eval()
    with untouched(model):
        copies = [renewed_copy(model, IMAGES, precision="float32") for _ in range(2)]
        before = [each(IMAGES) for each in copies]
        shaken(model)
        assert all(torch.equal(each(IMAGES), b) for each, b in zip(copies, before, strict=True))
    assert all(p.requires_grad for p in model.parameters())


def test_nothing_is_drawn_and_no_hook_stays():
    model = Small().eval()
    state = torch.get_rng_state()
    with untouched(model):
        for _ in range(2):
            renewed_copy(model, IMAGES, precision="float32")
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_it_is_compared_again_after_a_while(monkeypatch):
    compared = []

    def counted(*arguments, **options):
        compared.append(0)
        return search_copy(*arguments, **options)

    monkeypatch.setattr(renewal, "search_copy", counted)
    monkeypatch.setattr(renewal, "_TRUSTED", 3)
    model = Small().eval()
    with untouched(model):
        for _ in range(8):
            renewed_copy(model, IMAGES, precision="float32")
        assert len(compared) == 2
        model.layer = nn.Conv2d(8, 8, 5, padding=2).requires_grad_(False)
        assert renewed_copy(model, IMAGES, precision="float32") is not None
    assert len(compared) == 3


def test_a_model_that_no_copy_agrees_with_is_attacked_itself():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.calls = nn.Linear(192, 3), 0

        def forward(self, images):
            self.calls += 1
            return self.dense(images.flatten(1)) + self.calls * torch.tensor([1.0, -1, 0])

    model = Counting().eval()
    with untouched(model):
        for _ in range(2):
            assert renewed_copy(model, IMAGES, precision="float32") is None


@precisions
@pytest.mark.parametrize("defence", ["gradient_concealment", "random_resize_pad"])
def test_defended_models_are_attacked_through_their_honest_view(defence, precision):
    spec = ModelSpec(
        backbone={"name": "timm", "model": "test_resnet"},
        defences=({"name": defence},),
        classes=("a", "b", "c"),
        image_shape=(3, 32, 32),
        mean=(0.5,) * 3,
        deviation=(0.25,) * 3,
    )
    torch.manual_seed(0)
    model = build_model(spec).train()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    choice = {
        "name": "part",
        "attack": {"name": "pgd", "steps": 2, "keep": "last"},
        "budget": {"epsilon": 0.1, "low_epsilon": 0.05},
        "precision": precision,
    }
    objective = choose_objective(choice)
    targets = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    for _ in range(2):
        losses = objective(model, images, targets)
        assert bool(losses["loss"].isfinite())
        assert float(losses["saturated_rest"]) > 0.2
