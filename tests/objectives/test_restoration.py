"""The objective of a feature pyramid decoder: which phase it is in, and what it needs."""

import pytest
import torch
from torch import nn

from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.defences.random_resize_pad import RandomResizePad
from components.defences.two_phase import add_uniform_noise, two_phase_losses
from components.objectives import choose_objective

PGD = {"name": "pgd", "epsilon": 0.1, "steps": 2, "keep": "last"}
IMAGES = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]


@pytest.fixture
def decoder():
    """In training mode, after some batches, which set the running averages of its norms."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ELU()]
        layers += [nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ELU()]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        made = FeaturePyramidDecoder(network, width=4, image_size=16).train()
        for _ in range(5):
            made(torch.rand(8, 1, 16, 16))
    return made


def losses(model, **options):
    return choose_objective({"name": "restoration", **options})(model, IMAGES, TARGETS, seed=3)


def test_it_restores_first_and_classifies_below_the_threshold(decoder):
    closed = losses(decoder, threshold=1e-6)
    assert float(closed["gate"]) == 0 and "classification" not in closed
    opened = losses(decoder, threshold=1e6)
    assert float(opened["gate"]) == 1 and opened["classification"] > 0


def test_without_an_attack_it_undoes_noise(decoder):
    state = {name: value.clone() for name, value in decoder.state_dict().items()}
    found = losses(decoder, noise=0.05, threshold=1e6)["loss"]
    decoder.load_state_dict(state)
    noisy = add_uniform_noise(IMAGES, 0.05, seed=3)
    expected = two_phase_losses(decoder, IMAGES, TARGETS, noisy=noisy, threshold=1e6)["loss"]
    assert torch.equal(found, expected)


def test_it_learns_under_attack(decoder):
    optimizer, values = torch.optim.Adam(decoder.parameters(), 3e-3), []
    for _ in range(40):
        found = losses(decoder, attack=PGD, threshold=1e6)
        optimizer.zero_grad(set_to_none=True)
        found["loss"].backward()
        optimizer.step()
        values.append(float(found["loss"].detach()))
    assert values[-1] < 0.8 * values[0]
    assert decoder.training


def test_what_it_needs(decoder):
    with pytest.raises(ValueError, match="put the defence 'feature_pyramid_decoder' on it"):
        losses(nn.Flatten())
    with pytest.raises(ValueError, match="must come last"):
        losses(RandomResizePad(decoder))
    with pytest.raises(ValueError, match="threshold above 0"):
        losses(decoder, threshold=0.0)
