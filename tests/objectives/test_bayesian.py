"""Bayesian layers: divergences known in closed form, and means wherever nothing is to be drawn."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from components.models.checkpoint import load_checkpoint
from components.objectives import choose_objective
from components.objectives.bayesian import Bayesian
from components.training.config import TrainingConfig
from components.training.train import train


def unchanged(view, images, labels, seed):
    return images.clone()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, 4, 4, generator=generator), torch.eye(3)[torch.arange(6) % 3]


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).train()


def prepared(model, **options):
    objective = Bayesian(attack=unchanged, **{"kl_weight": 0.0, **options})
    objective.prepare(model)
    return objective


def test_divergence_is_that_of_gaussians(model, batch):
    objective = prepared(model, prior_deviation=0.1, initial_rho=-5.0)
    means = [p for name, p in model.named_parameters() if not name.startswith("rho_")]
    deviation = math.log1p(math.exp(-5))
    expected = sum(
        float(kl_divergence(Normal(mean.detach(), deviation), Normal(0.0, 0.1)).sum())
        for mean in means
    )
    assert float(objective(model, *batch)["kl"]) == pytest.approx(expected, rel=1e-4)


def test_divergence_alone_brings_the_prior_back(model, batch):
    objective = prepared(model, kl_weight=1e6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        objective(model, *batch)["loss"].backward()
        optimizer.step()
    for name, value in model.named_parameters():
        if name.startswith("rho_"):
            value = nn.functional.softplus(value) - 1
        assert float(value.detach().abs().max()) < 0.02, name


def test_clean_and_attacked_images_see_weights_drawn_once(model, batch):
    losses = prepared(model, initial_rho=0.0)(model, *batch, seed=1)
    assert torch.equal(losses["clean_loss"], losses["adversarial_loss"])
    other = prepared(model, initial_rho=0.0)(model, *batch, seed=2)
    assert not torch.allclose(losses["loss"], other["loss"])


def test_the_attack_sees_the_means(model, batch):
    images = batch[0]
    seen = []

    def attack(view, images, labels, seed):
        seen.append(view(images))
        return images.clone()

    objective = Bayesian(attack=attack, kl_weight=0.0, initial_rho=3.0)
    expected = model.eval()(images)
    objective.prepare(model.train())
    model[1].reset_running_stats()
    objective(model, *batch)
    model[1].reset_running_stats()
    assert torch.allclose(seen[0], expected)


def test_kept_is_an_ordinary_network_with_the_means(digits_shards, tmp_path):
    settings = TrainingConfig(
        backbone={"name": "lenet5", "widths": [4, 6, 96, 12]},
        objective={
            "name": "bayesian",
            "kl_weight": 1e-5,
            "attack": {"name": "fgsm", "epsilon": 0.1},
        },
        epochs=1,
        batch_size=256,
    )
    logged = []

    class Listening(type(train.__kwdefaults__["run"])):
        def metrics(self, values, step=None):
            logged.append(values)

    train(settings, data=digits_shards, target=tmp_path, run=Listening("train"))
    names = set(load_checkpoint(tmp_path).state_dict())
    assert not any("rho_" in name for name in names)
    assert logged[0]["kl"] > 0


def test_deviations_are_trained_with_the_weights(model, batch):
    objective = prepared(model)
    objective(model, *batch)["loss"].backward()
    slopes = [value.grad for name, value in model.named_parameters() if "rho_" in name]
    assert slopes and all(slope is not None and bool(slope.any()) for slope in slopes[-2:])


def test_no_other_objective_wraps_it():
    choice = {"name": "bayesian", "kl_weight": 0.0, "attack": {"name": "fgsm", "epsilon": 0.1}}
    with pytest.raises(ValueError, match="cannot wrap 'bayesian', which adds parameters"):
        choose_objective({"name": "awp", "objective": choice})


@pytest.mark.parametrize(
    "wrong", [{"clean_share": 2.0}, {"prior_deviation": 0.0}, {"kl_weight": -1.0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Bayesian(**{"attack": unchanged, "kl_weight": 0.0, **wrong})
