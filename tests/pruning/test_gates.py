import math

import pytest
import torch
from torch import nn

from components.models.build import Model, ModelSpec
from components.pruning.gates import (
    BetaBernoulliGate,
    gate_model,
    gates_in,
    shared_noise,
    total_kl,
)

AS_PUBLISHED = {"threshold": 1e-3, "initial_keep_probability": 0.2386}


def gate_with(a: float, b: float, units: int = 1) -> BetaBernoulliGate:
    gate = BetaBernoulliGate(units, **AS_PUBLISHED)
    for raw, value in ((gate.raw_a, a), (gate.raw_b, b)):
        raw.data.fill_(math.log(math.expm1(value)))
    return gate


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(0.3133, 1, 7.0501), (2.1269, 1, 8.9651), (0.5, 3, 7.1162), (1.5, 0.7, 8.9019)],
)
def test_kl_has_the_published_values(a, b, expected):
    assert gate_with(a, b).kl().item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0.3, 1.0), (0.5, 3.0), (1.5, 0.7), (4.0, 10.0)])
def test_kl_agrees_with_monte_carlo(a, b):
    prior = 1e-4
    log_u = torch.rand(400_000, dtype=torch.float64).log()
    log_pi = torch.log1p(-(log_u / b).exp()) / a
    log_posterior = math.log(a * b) + (a - 1) * log_pi + (b - 1) / b * log_u
    differences = log_posterior - (math.log(prior) + (prior - 1) * log_pi)
    error = float(differences.std()) / len(differences) ** 0.5
    assert gate_with(a, b).kl().item() == pytest.approx(float(differences.mean()), abs=5 * error)


@pytest.mark.parametrize(("expected", "raw_a"), [(0.2386, -1.0), (0.6802, 2.0)])
def test_initial_parameters_are_the_published_ones(expected, raw_a):
    gate = BetaBernoulliGate(3, threshold=1e-3, initial_keep_probability=expected)
    assert gate.keep_probability().tolist() == pytest.approx([expected] * 3, abs=1e-4)
    assert gate.raw_a.tolist() == pytest.approx([raw_a] * 3, abs=1e-3)
    assert gate.raw_b.tolist() == pytest.approx([0.5413] * 3)


@pytest.mark.parametrize(("a", "b"), [(0.05, 1.0), (0.3, 1.0), (1.0, 5.0), (3.0, 0.5)])
def test_share_of_kept_samples_is_the_keep_probability(a, b):
    gate = gate_with(a, b, units=200_000)
    kept = (gate.sample(1) > 0.5).float().mean()  # at any temperature above 0.5 just when kept
    assert float(kept) == pytest.approx(gate.keep_probability()[0].item(), abs=0.005)


@pytest.mark.parametrize("raw_b", [-50.0, -10.0, 0.5, 50.0, 80.0])
@pytest.mark.parametrize("raw_a", [-50.0, -10.0, 0.0, 30.0, 80.0])
def test_values_and_gradients_are_finite_at_the_extremes(raw_a, raw_b):
    gate = BetaBernoulliGate(500, **AS_PUBLISHED)
    gate.raw_a.data.fill_(raw_a)
    gate.raw_b.data.fill_(raw_b)
    for value in (gate.kl(), gate.sample(8).sum(), gate.mask().sum()):
        gradients = torch.autograd.grad(value, list(gate.parameters()))
        assert all(bool(t.isfinite().all()) for t in (value, *gradients))


def test_a_batch_shares_keep_probabilities_and_each_image_draws_for_itself():
    gate = gate_with(1.0, 1.0, units=300)  # keep probabilities are uniform on [0, 1]
    kept = (gate.sample(500) > 0.5).float()
    shares = kept.mean(0)
    assert float(shares.var()) == pytest.approx(1 / 12, rel=0.3)  # were they not shared: 1 / 2000
    assert float((kept[0] - kept[1]).abs().mean()) == pytest.approx(1 / 3, abs=0.1)


def test_copies_in_a_batch_share_their_noise_only_meanwhile():
    gate = gate_with(1.0, 1.0, units=50)
    with shared_noise([gate]):
        first, second = gate.sample(8).chunk(2)
        assert torch.equal(first, second)
        with pytest.raises(ValueError, match="7 images are not 2 copies"):
            gate.sample(7)
    first, second = gate.sample(8).chunk(2)
    assert not torch.equal(first, second)


def test_evaluation_multiplies_by_a_thresholded_keep_probability():
    gate = BetaBernoulliGate(3, threshold=0.2, initial_keep_probability=0.5).eval()
    gate.raw_a.data.copy_(torch.tensor([-1.0, -2.0, 2.0]))
    features = torch.rand(4, 3, 5, 5)
    factors = torch.tensor([0.2386, 0.0, 0.6802])
    assert torch.allclose(gate(features), features * factors.view(1, 3, 1, 1), atol=1e-4)
    assert torch.equal(gate(features), gate(features))
    assert torch.equal(gate(features[..., 0, 0]), gate(features)[..., 0, 0])


def test_a_held_unit_stays_open_with_its_own_factor():
    gate = BetaBernoulliGate(2, threshold=0.5, initial_keep_probability=0.25)
    gate.held[1] = True
    assert gate.is_open().tolist() == [False, True]
    assert gate.mask().tolist() == pytest.approx([0, 0.25], abs=1e-4)


def test_full_lenet_has_the_published_gates(make_model):
    gates = gates_in(gate_model(make_model((20, 50, 800, 500)), **AS_PUBLISHED))
    sizes = {name: len(gate.raw_a) for name, gate in gates.items()}
    assert sizes == {"conv1": 20, "conv2": 50, "dense3": 800, "dense4": 500}
    assert sum(sizes.values()) == 1370
    assert total_kl(gates).item() == pytest.approx(9658, abs=1)


def test_gates_go_into_a_copy_and_scale_where_the_backbone_says(make_model, images):
    model = make_model()
    before = model(images)
    gated = gate_model(model, **AS_PUBLISHED).eval()
    assert torch.equal(model(images), before)
    backbone, keep = model.backbone, gates_in(gated)["conv1"].mask()[0].item()
    hidden = (images - 0.2) / 0.4
    for conv in (backbone.conv1, backbone.conv2):
        hidden = torch.nn.functional.max_pool2d((conv(hidden) * keep).relu(), 2)
    expected = backbone.dense4(backbone.dense3(hidden.flatten(1) * keep).relu() * keep)
    assert torch.allclose(gated(images), expected, atol=1e-5)


def test_a_backbone_without_units_is_refused():
    spec = ModelSpec(
        backbone={"name": "timm", "model": "resnet18"},
        classes=("no", "yes"),
        image_shape=(3, 8, 8),
        mean=(0.5,) * 3,
        deviation=(0.5,) * 3,
    )
    model = Model(spec, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    with pytest.raises(ValueError, match="no gates fit Sequential: all its channels"):
        gate_model(model, **AS_PUBLISHED)
