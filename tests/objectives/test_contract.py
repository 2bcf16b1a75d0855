"""Every entry of OBJECTIVES: a differentiable loss that leaves the images alone."""

import copy

import pytest
import torch
from torch import nn

from components.objectives import OBJECTIVES, choose_objective

ATTACK = {"name": "pgd", "epsilon": 0.1, "steps": 2, "keep": "last"}
CHOICES = {
    "adversarial": {"name": "adversarial", "attack": ATTACK, "clean_share": 0.5},
    "cross_entropy": {"name": "cross_entropy"},
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    return nn.Sequential(*layers).train()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 2, 2, generator=generator)
    return images, torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]


def test_every_objective_is_exercised():
    assert CHOICES.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_loss_falls_along_its_gradient(choice, model, batch):
    objective = choose_objective(choice)
    images, targets = batch
    before = images.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    values = []
    for _ in range(30):
        losses = objective(model, images, targets, seed=0)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        values.append(float(losses["loss"].detach()))
    assert values[-1] < values[0]
    assert torch.equal(images, before)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_only_the_loss_reaches_the_weights(choice, model, batch):
    losses = choose_objective(choice)(model, *batch, seed=0)
    assert losses["loss"].requires_grad and losses["loss"].ndim == 0
    assert not any(value.requires_grad for name, value in losses.items() if name != "loss")


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_model_keeps_training(choice, model, batch):
    choose_objective(choice)(model, *batch, seed=0)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_same_seed_same_loss(choice, model, batch):
    objective = choose_objective(choice)
    copies = model, copy.deepcopy(model)  # an objective may move running averages
    first, second = (float(objective(m, *batch, seed=3)["loss"].detach()) for m in copies)
    assert first == second
