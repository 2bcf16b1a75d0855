"""Gradient concealment hides gradients, changes nothing else and stops no honest attacker.

The numbers are the acceptance tests of Pei et al., 2022, https://arxiv.org/abs/2205.10617. Single
signs are never relied on: they depend on how exactly a processor reduces the sine's argument.
"""

from functools import partial

import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.attacks.gradients import input_gradient
from components.attacks.losses import logit_odds
from components.defences.defended import honest_view
from components.defences.gradient_concealment import GradientConcealment

STEPWISE = {"fgsm": {}, "pgd": {"steps": 10}}


def layer(pixels, **options):
    """What the model behind the layer sees, one pixel per column."""
    return GradientConcealment(nn.Flatten(), **options)(pixels.view(1, 1, 1, -1))[0]


def factors(pixels):
    pixels = pixels.clone().requires_grad_(True)
    layer(pixels).sum().backward()
    return pixels.grad


def test_pixels_from_a_quarter_on_pass_bit_for_bit():
    pixels = torch.linspace(0.25, 1, 100_000)
    assert torch.equal(layer(pixels), pixels)


def test_no_pixel_moves_by_more_than_rounding():
    pixels = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    moved = (layer(pixels) - pixels).abs()
    assert 0 < moved.max() <= 1.5e-8


def test_half_of_the_gradients_change_their_sign():
    pixels = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    signs = factors(pixels)
    assert 0.45 < (signs < 0).double().mean() < 0.55
    assert 1e11 < signs.abs().median() < 1.01e12


def test_black_pixels_leak_the_true_sign():
    assert factors(torch.zeros(1)).item() == pytest.approx(1e12, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_passes_unchanged(dtype):
    pixels = torch.linspace(0, 1, 256).to(dtype)
    assert torch.equal(layer(pixels), pixels)


def test_gradients_of_weights_are_untouched(lin400):
    def gradients(model):
        lin400.model.zero_grad()
        nn.functional.cross_entropy(model(lin400.images), lin400.labels).backward()
        return torch.cat([p.grad.flatten() for p in lin400.model.parameters()])

    bare, concealed = gradients(lin400.model), gradients(GradientConcealment(lin400.model))
    lin400.model.zero_grad()
    assert (bare - concealed).norm() <= 1e-5 * bare.norm()


def test_gradient_of_pixels_points_nowhere(lin400):
    """Its cosine with the true direction is what random signs and sizes of its entries give."""
    model, images, labels = lin400  # whose black and white pixels share one sign
    concealed = GradientConcealment(model)
    varied = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    true, hidden, honest = (
        input_gradient(view, varied, partial(logit_odds, labels=labels))[1].flatten(1).double()
        for view in (model, concealed, honest_view(concealed))
    )
    cosines = torch.cosine_similarity(true, hidden)
    by_chance = (true.pow(4).sum(1).sqrt() / true.square().sum(1)).mean().item()
    assert abs(cosines.mean()) < 0.02 and cosines.std().item() == pytest.approx(by_chance, rel=0.2)
    assert torch.equal(honest, true)


@pytest.mark.parametrize("epsilon", [4 / 255, 8 / 255])
@pytest.mark.parametrize("name", STEPWISE)
def test_naive_attack_fails_and_honest_attack_does_not_notice(name, epsilon, lin400):
    model, images, labels = lin400
    concealed = GradientConcealment(model)
    robust = {
        view: lin400.robust_accuracy(
            ATTACKS[name](attacked, images, labels, epsilon=epsilon, **STEPWISE[name]), concealed
        )
        for view, attacked in [
            ("none", model),
            ("naive", concealed),
            ("honest", honest_view(concealed)),
        ]
    }
    assert robust["naive"] > 0.81  # 0.8575 unattacked
    assert robust["honest"] == robust["none"] == pytest.approx({4: 0.7275, 8: 0.51}[255 * epsilon])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frequency": 0.0}, "must be finite and above 0, got 0.0"),
        ({"frequency": -1e20}, "must be finite and above 0"),
        ({"frequency": float("inf")}, "must be finite and above 0"),
        ({"frequency": float("nan")}, "must be finite and above 0"),
        ({"amplitude": 0.0}, "must be finite and above 0"),
        ({"amplitude": float("nan")}, "must be finite and above 0"),
        ({"frequency": 1e8}, "frequency \\* amplitude must be above 1, .* got 1$"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        GradientConcealment(nn.Flatten(), **options)
