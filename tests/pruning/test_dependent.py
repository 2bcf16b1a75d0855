"""Gates that depend on the image, against their formulas; and a model that wears them."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from components.models.checkpoint import load_checkpoint, save_checkpoint
from components.models.dependent_gates import (
    DependentGate,
    DependentLayer,
    dependent_gates_in,
)
from components.models.gating import scale_units
from components.models.units import Place
from components.pruning.config import PruningConfig
from components.pruning.dependent import DependentPruning
from components.pruning.gates import gate_model, gate_widths
from components.pruning.prune import prune

ATTACK = {"name": "pgd", "epsilon": 0.1, "steps": 2, "keep": "last"}
SETTINGS = PruningConfig(
    method={"name": "dependent_gates"}, attack=ATTACK, epochs=2, batch_size=20, kl_weight=1.0
)


@pytest.fixture
def gate():
    gate = DependentGate(5)
    for parameter in (gate.scale, gate.shift, gate.raw_deviation):
        nn.init.normal_(parameter)
    gate.norm.running_mean.normal_()
    gate.norm.running_var.uniform_(0.5, 2)
    return gate.eval()


def probabilities(gate, means):
    normalised = (means - gate.norm.running_mean) / (gate.norm.running_var + 1e-5).sqrt()
    return (gate.scale * normalised + gate.shift).clamp(0, 1)


@pytest.mark.parametrize(("shape", "dimension"), [((8, 5, 3, 4), 1), ((8, 3, 5), 2), ((8, 5), 1)])
def test_evaluation_multiplies_by_the_clipped_probability(gate, shape, dimension):
    features = torch.randn(shape)
    others = [d for d in range(1, len(shape)) if d != dimension]
    means = features.mean(others) if others else features
    kept = probabilities(gate, means)
    assert 0 < float((kept == 0).float().mean()) < 1
    expanded = kept.view([8, *(5 if d == dimension else 1 for d in range(1, len(shape)))])
    gated = scale_units(features, gate(features, dimension), dimension=dimension)
    assert torch.allclose(gated, features * expanded, atol=1e-6)


def test_neighbours_of_a_flattened_feature_share_their_unit():
    features = torch.randn(8, 5, 3, 4)
    expected = scale_units(features, DependentGate(5).eval()(features, 1), dimension=1)
    reader = nn.Linear(60, 60, bias=False)
    nn.init.eye_(reader.weight)
    layer = DependentLayer(reader, Place("reader", "input", 12), 5).eval()
    assert torch.allclose(layer(features.flatten(1)), expected.flatten(1), atol=1e-6)


def test_the_divergence_is_that_of_two_normal_distributions(gate):
    posterior = Normal(gate.shift, functional.softplus(gate.raw_deviation))
    expected = kl_divergence(posterior, Normal(torch.zeros(5), math.sqrt(5))).sum()
    assert gate.kl().item() == pytest.approx(expected.item(), rel=1e-6)


def test_expected_keep_probability_is_that_of_normal_means(gate):
    drawn = gate.norm.running_mean + gate.norm.running_var.sqrt() * torch.randn(400_000, 5)
    found = probabilities(gate, drawn).mean(0)
    assert torch.allclose(gate.keep_probability(), found, atol=5e-3)


def test_training_keeps_units_as_often_as_their_probability_says(gate):
    gate.raw_deviation.data.fill_(-20)  # no noise of the shift
    means = torch.randn(8, 5).repeat(5000, 1)
    kept = gate.train()(means, 1) > 0.5
    normalised = functional.batch_norm(means, None, None, training=True)
    expected = (gate.scale * normalised + gate.shift).clamp(0, 1)[:8]
    assert torch.allclose(kept.float().view(5000, 8, 5).mean(0), expected, atol=0.03)


def test_copies_of_the_same_images_share_their_noise(gate):
    features = torch.randn(6, 5).repeat(2, 1)
    gate.train().copies = 2
    one, other = gate(features, 1).chunk(2)
    assert torch.equal(one, other) and len(one.unique()) > 5
    gate.copies = 5
    with pytest.raises(ValueError, match="12 images are not 5 copies"):
        gate(features, 1)


def test_only_an_attacker_sees_how_features_open_the_gate(gate):
    features = torch.randn(8, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(gate(features, 1).sum(), features)
    assert gradient.any()
    kept = gate.train()(features, 1).sum()
    assert torch.autograd.grad(kept, features, allow_unused=True) == (None,)


@pytest.mark.parametrize("widths", [(4, 6, 96, 12), (3, 5, 70, 9)])
def test_a_model_learns_them_and_is_rebuilt_with_them(widths, make_model, shards, tmp_path):
    model = make_model(widths)
    save_checkpoint(model, tmp_path / "initial", provenance={})
    figures = prune(SETTINGS, data=shards, initial=tmp_path / "initial", target=tmp_path / "gated")
    assert figures["sparsity"] == 0 and figures["max_logit_difference"] == 0
    gated = load_checkpoint(tmp_path / "gated")
    assert gated.spec.backbone == {**model.spec.backbone, "dependent_gates": True}
    assert gate_widths(gated) == gate_widths(model)
    gates = dependent_gates_in(gated.backbone)
    assert [len(gate.shift) for gate in gates.values()] == list(widths)
    assert all((gate.shift.data - 1).abs().max() > 0.01 for gate in gates.values())
    with pytest.raises(ValueError, match="depend on the image cannot be pruned"):
        gate_model(gated, threshold=1e-3, initial_keep_probability=0.5)
    with pytest.raises(ValueError, match="depend on the image cannot be pruned"):
        prune(SETTINGS, data=shards, initial=tmp_path / "gated", target=tmp_path / "again")


def test_a_resumed_step_is_the_step_that_would_have_come(make_model, images):
    targets = functional.one_hot(torch.arange(16) % 10).float()
    settings = dataclasses.replace(SETTINGS, batch_size=16)
    one, other = (DependentPruning(make_model(), settings, 16, 1) for _ in range(2))
    one.model.train()
    one.step(images, targets, 0)
    other.restore(copy.deepcopy(one.state()))
    found = []
    for method in (one, other):
        torch.manual_seed(5)
        method.model.train()
        found.append(method.step(images, targets, 1)["kl"].item())
    assert found[0] == found[1]
    weights = (method.model.state_dict() for method in (one, other))
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
