"""The objective of a feature pyramid decoder: which phase it is in, and what it needs."""

import copy

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
    [expected] = two_phase_losses(decoder, IMAGES, TARGETS, noisy=noisy, threshold=1e6)
    assert torch.equal(found, expected["loss"])


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


def taken(decoder, **options):
    """What two batches that train like this give, update by update."""
    objective = choose_objective({"name": "restoration", **options})
    optimizer, found = torch.optim.SGD(decoder.parameters(), 0.05), []
    for _ in range(2 * objective.replays):
        given = objective(decoder, IMAGES, TARGETS, seed=3)
        optimizer.zero_grad()
        given["loss"].backward()
        optimizer.step()
        found.append({name: float(value.detach()) for name, value in given.items()})
    return found


@pytest.mark.parametrize("second", ["detached", "recomputed"])
def test_second_phase_may_be_an_update_of_its_own(second, decoder):
    first, then, third, _ = taken(decoder, second=second, threshold=1e6)
    assert first.keys() == third.keys() == {"loss", "gate", "restoration", "classification"}
    assert then.keys() == {"loss", "second_classification", "second_restoration"}
    parts = then["second_classification"] + then["second_restoration"]
    assert then["loss"] == pytest.approx(parts, rel=1e-5)
    assert third["loss"] < first["loss"]


def test_own_second_phase_takes_the_image_as_it_was_or_restores_it_again(decoder):
    """Only the restoration learns, so that what is classified second is all that differs."""
    options = {"classification_weight": 0.0, "threshold": 1e6}
    start, found = copy.deepcopy(decoder.state_dict()), {}
    for second in ("none", "detached", "recomputed"):
        decoder.load_state_dict(start)
        found[second] = taken(decoder, second=second, **options)
    assert found["none"][0] == found["detached"][0] == found["recomputed"][0]
    assert found["detached"][1] != found["recomputed"][1]


def test_closed_gate_leaves_the_second_update_empty(decoder):
    objective = choose_objective({"name": "restoration", "second": "detached", "threshold": 1e-6})
    objective(decoder, IMAGES, TARGETS, seed=3)["loss"].backward()
    decoder.zero_grad()
    then = objective(decoder, IMAGES, TARGETS, seed=3)
    then["loss"].backward()
    assert then.keys() == {"loss"} and all(p.grad is None for p in decoder.parameters())
    assert "gate" in objective(decoder, IMAGES, TARGETS, seed=3)


def test_what_it_needs(decoder):
    with pytest.raises(ValueError, match="put the defence 'feature_pyramid_decoder' on it"):
        losses(nn.Flatten())
    with pytest.raises(ValueError, match="must come last"):
        losses(RandomResizePad(decoder))
    with pytest.raises(ValueError, match="threshold above 0"):
        losses(decoder, threshold=0.0)


def test_clean_images_beside_attacked_ones(decoder):
    mixed = losses(copy.deepcopy(decoder), attack=PGD, clean_share=0.5, second="none")
    attacked = losses(copy.deepcopy(decoder), attack=PGD, second="none")
    assert mixed["restoration"] == attacked["restoration"]
    assert mixed["loss"] < attacked["loss"]  # no attack has made the other half worse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 8.0}, r"noise must be in \[0, 1\], got 8.0"),
        ({"clean_share": 0.5}, "clean_share has no effect without an attack"),
        ({"clean_share": 1.5, "attack": PGD}, r"clean_share must be in \[0, 1\], got 1.5"),
    ],
)
def test_options_out_of_range(decoder, options, message):
    with pytest.raises(ValueError, match=message):
        losses(decoder, **options)
