"""Weight perturbation against a step taken by hand on a copy of the model."""

import copy

import pytest
import torch
from torch import nn

from components.objectives import choose_objective
from components.objectives.awp import awp
from components.objectives.cross_entropy import cross_entropy

IMAGES = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.eye(3)[torch.arange(8) % 3]
GAMMA = 0.05
TRADES = {"name": "trades", "attack": {"name": "ascent", "epsilon": 0.1, "start": "near"}}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).train()


def plain(model, images, targets, *, attacked, seed, rows):
    attacked(lambda: images)
    return cross_entropy(model, images, targets)


def moved_by_hand(network):
    """Weights of more than one dimension go by gamma of their norm along their gradient."""
    moved = copy.deepcopy(network)
    cross_entropy(copied := copy.deepcopy(network), IMAGES, TARGETS)["loss"].backward()
    with torch.no_grad():
        for weight, other in zip(moved.parameters(), copied.parameters(), strict=True):
            if weight.ndim > 1:
                weight += GAMMA * weight.norm() * other.grad / other.grad.norm()
    return moved


def test_loss_and_gradient_are_those_of_the_moved_weights(network):
    moved = moved_by_hand(network)
    expected = cross_entropy(moved, IMAGES, TARGETS)["loss"]
    expected.backward()
    loss = awp(network, IMAGES, TARGETS, objective=plain, gamma=GAMMA)["loss"]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    for parameter, other in zip(network.parameters(), moved.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, atol=1e-6)
    for buffer, other in zip(network.buffers(), moved.buffers(), strict=True):
        assert torch.allclose(buffer, other)  # as after one pass of the moved model


def test_loss_is_higher_than_at_the_weights(network):
    here = cross_entropy(copy.deepcopy(network), IMAGES, TARGETS)["loss"]
    there = awp(network, IMAGES, TARGETS, objective=plain, gamma=GAMMA)["loss"]
    assert float(there.detach()) > float(here.detach())


def test_without_length_it_is_the_objective_itself(network):
    wrapped = {"name": "awp", "objective": TRADES, "gamma": 0.0}
    copies = network, copy.deepcopy(network)
    first, second = (
        choose_objective(choice)(model, IMAGES, TARGETS, seed=1)["loss"]
        for choice, model in zip((TRADES, wrapped), copies, strict=True)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_weights_stay_bit_for_bit_even_when_a_pass_fails(network, failing):
    passes = 0

    def objective(model, images, targets, *, attacked, seed, rows):
        nonlocal passes
        passes += 1
        loss = plain(model, images, targets, attacked=attacked, seed=seed, rows=rows)
        if passes == failing:
            raise InterruptedError
        return loss

    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = [id(p) for p in network.parameters()]
    try:
        awp(network, IMAGES, TARGETS, objective=objective, gamma=GAMMA)
    except InterruptedError:
        assert passes == failing
    assert [id(p) for p in network.parameters()] == parameters
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None
    if failing == 1:
        assert all(torch.equal(v, before[name]) for name, v in network.state_dict().items())


def test_images_are_attacked_once_at_the_weights_as_they_are(network):
    attacks = []

    def objective(model, images, targets, *, attacked, seed, rows):
        attacked(lambda: attacks.append([p.clone() for p in model.parameters()]) or images)
        return cross_entropy(model, images, targets)

    awp(network, IMAGES, TARGETS, objective=objective, gamma=GAMMA)
    (weights,) = attacks
    assert all(torch.equal(w, p) for w, p in zip(weights, network.parameters(), strict=True))


def test_an_objective_without_an_attack_is_refused(network):
    objective = choose_objective({"name": "awp", "objective": "cross_entropy"})
    with pytest.raises(ValueError, match="crafts no adversarial images"):
        objective(network, IMAGES, TARGETS)


def test_negative_length_is_refused(network):
    with pytest.raises(ValueError, match="gamma"):
        awp(network, IMAGES, TARGETS, objective=plain, gamma=-1.0)
