"""Lipschitz head: true bounds, the floors of cross-entropy, and what saturation hides."""

import copy
import math

import pytest
import torch
from torch import nn

from components.attacks.acceleration import LIMITS, search_copy
from components.attacks.pgd import pgd
from components.defences.defended import honest_view
from components.defences.lipschitz_head import LipschitzHead, bounded_weight
from components.objectives import choose_objective

FEATURES = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))


class Last(nn.Module):
    """A dense layer on images that are lists of features."""

    def __init__(self, size=10, gain=3.0):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.linear = nn.Linear(12, size)
        self.linear.weight.data = gain * torch.randn(size, 12, generator=generator)

    def forward(self, images):
        return self.linear(images.flatten(1))


def as_images(features):
    return features.view(-1, 12, 1, 1)


@pytest.mark.parametrize(
    "classes, probability, floor",
    [(10, 0.4509, 0.7966), (102, 0.0682, 2.6857), (257, 0.0281, 3.5736)],
)
def test_floors_of_cross_entropy(classes, probability, floor):
    """The best that logits in (-1, 1) can do: fixtures of the published configuration."""
    logits = torch.full((1, classes), -40.0)
    logits[0, 0] = 40
    head = LipschitzHead(nn.Sequential(nn.Flatten(), nn.Identity()), bound="tanh")
    bounded = head(logits.view(1, classes, 1, 1))
    assert bounded.softmax(1)[0, 0].item() == pytest.approx(probability, abs=5e-5)
    loss = nn.functional.cross_entropy(bounded, torch.tensor([0])).item()
    assert loss == pytest.approx(floor, abs=5e-5)


def test_slope_vanishes_where_the_honest_view_still_has_one():
    """4.8e-7 at 8, exactly 0 from about 9.02 on."""
    head = LipschitzHead(nn.Flatten(), bound="tanh")
    for value, least, most in [(8.0, 4.5e-7, 5e-7), (9.1, 0, 0), (20.0, 0, 0)]:
        images = torch.full((1, 1, 1, 1), value, requires_grad=True)
        (slope,) = torch.autograd.grad(head(images).sum(), images)
        assert least <= slope.item() <= most
        (slope,) = torch.autograd.grad(honest_view(head)(images).sum(), images)
        assert slope.item() == 1


@pytest.mark.parametrize("lipschitz", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_steps_of_features_bound_those_of_logits(lipschitz, scale):
    head = LipschitzHead(Last(), lipschitz=lipschitz, scale=scale)
    with torch.no_grad():
        before, after = (
            head(as_images(FEATURES)),
            head(as_images(FEATURES + 0.01 * FEATURES.flip(0))),
        )
    moved = (0.01 * FEATURES.flip(0)).norm(dim=1)
    assert ((after - before).norm(dim=1) <= scale * lipschitz * moved * (1 + 1e-4)).all()
    assert before.abs().max() <= scale


def test_weights_are_divided_by_their_largest_singular_value_or_kept():
    weight = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    assert torch.allclose(bounded_weight(weight, 1.0), weight / 4)
    assert torch.allclose(bounded_weight(weight, 2.0), weight / 2)
    assert torch.equal(bounded_weight(weight, 4.5), weight)


def test_the_bound_is_recomputed_by_hand():
    last = Last()
    head = LipschitzHead(last, scale=5.0)
    sigma = torch.linalg.svdvals(last.linear.weight)[0]
    logits = FEATURES @ (last.linear.weight / sigma).T + last.linear.bias
    assert torch.allclose(head(as_images(FEATURES)), 5 * logits.tanh(), atol=1e-5)
    assert torch.allclose(honest_view(head)(as_images(FEATURES)), logits, atol=1e-5)


def test_the_layer_itself_stays_as_it_is_and_learns():
    last = Last()
    before = last.linear.weight.detach().clone()
    head = LipschitzHead(LipschitzHead(last), lipschitz=0.5)
    head(as_images(FEATURES)).square().sum().backward()
    assert torch.equal(last.linear.weight, before) and last.linear.weight.grad.any()
    assert isinstance(last.linear.weight, nn.Parameter)


def test_stacked_bounds_are_the_tighter_one():
    images = as_images(FEATURES)
    for inside, outside in [(0.5, 2.0), (2.0, 0.5)]:
        stack = LipschitzHead(
            LipschitzHead(Last(), bound="spectral", lipschitz=inside),
            bound="spectral",
            lipschitz=outside,
        )
        alone = LipschitzHead(Last(), bound="spectral", lipschitz=0.5)
        alone.inner.linear.load_state_dict(stack.inner.inner.linear.state_dict())
        assert torch.allclose(stack(images), alone(images), atol=1e-5)


@pytest.mark.parametrize("bound", ["spectral", "spectral_tanh"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@torch.no_grad()
def test_a_fast_copy_is_bounded_too(bound, precision):
    """Its last layer, which stays in float32 where the bound is all that comes after it."""
    head = LipschitzHead(Last(), bound=bound)
    images = as_images(FEATURES)
    found = search_copy(head, images, precision=precision)
    assert found is not None and found.precision == precision
    near = LIMITS[precision] * head(images).std(correction=0)
    assert (found(images) - head(images)).abs().max() <= near
    if bound == "spectral":
        assert found.network.inner.linear.weight.dtype == torch.float32
    assert torch.equal(copy.deepcopy(found)(images), found(images))


@pytest.mark.parametrize("bound", ["tanh", "spectral", "spectral_tanh"])
def test_it_is_trained_against_a_fast_copy(bound):
    choice = {"name": "fgsm_rs", "epsilon": 0.1, "precision": "bfloat16"}
    objective, head = choose_objective(choice), LipschitzHead(Last(), bound=bound).train()
    images, targets = as_images(FEATURES).sigmoid(), torch.eye(10)[torch.arange(200) % 10]
    for _ in range(2):  # the second copy is made as the first was
        objective(head, images, targets)["loss"].backward()
    assert head.inner.linear.weight.grad.any()


def test_saturation_stops_the_naive_attack_and_not_the_honest_one(lin400):
    """The problem's logits, around 0 and far apart; judged without float32's ties."""
    model, images, labels = lin400

    class Far(nn.Module):
        def forward(self, pixels):
            logits = model(pixels)
            return 400 * (logits - logits.mean(1, keepdim=True))

    head = LipschitzHead(Far(), bound="tanh")
    robust = {
        name: lin400.robust_accuracy(
            pgd(view, images, labels, epsilon=8 / 255, steps=10, loss="margin"), Far()
        )
        for name, view in [("naive", head), ("honest", honest_view(head))]
    }
    assert robust["honest"] == pytest.approx(0.44) and robust["naive"] > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lipschitz": 0.0}, "lipschitz must be finite and above 0, got 0.0"),
        ({"scale": math.inf}, "scale must be finite and above 0, got inf"),
        ({"bound": "spectral", "scale": 5.0}, "scale has no effect without tanh"),
        ({"bound": "tanh", "lipschitz": 2.0}, "lipschitz has no effect without spectral"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        LipschitzHead(Last(), **options)


def test_a_network_without_dense_layer():
    with pytest.raises(ValueError, match="has no dense layer that gives its logits"):
        LipschitzHead(nn.Flatten())
