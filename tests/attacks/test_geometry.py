"""Projection, steepest step and random start: worked values and what must hold for any input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.attacks.geometry import (
    NORMS,
    distance,
    project,
    radius,
    random_start,
    steepest_step,
)
from components.attacks.randomness import sample_seeds

PIXELS = 6
every_norm = pytest.mark.parametrize("norm", NORMS)


def row(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def rows(low, high):
    pixel = st.floats(low, high, width=32)
    return st.lists(pixel, min_size=PIXELS, max_size=PIXELS).map(lambda values: row(*values))


budgets = st.floats(0, 1, width=32).map(lambda value: torch.full((1, 1, 1, 1), value))
boxes, perturbations, gradients = rows(0, 1), rows(-2, 2), rows(-1e3, 1e3)


def length(perturbation, norm):
    return distance(perturbation, norm).item()


U, X = row(0.6, -0.3, 0.2, 0.1), row(0.9, 0.2, 0.5, 0.3)


@pytest.mark.parametrize(
    ("norm", "epsilon", "expected"),
    [
        ("linf", 0.5, (0.1, -0.2, 0.2, 0.1)),
        ("linf", 0.15, (0.1, -0.15, 0.15, 0.1)),
        ("l2", 0.5, (0.1, -0.2, 0.2, 0.1)),
        ("l2", 0.25, (0.1, -0.183712, 0.122474, 0.061237)),  # ball, then box: norm .166 only
    ],
)
def test_projection_of_a_worked_case(norm, epsilon, expected):
    projected = project(U, X, radius(epsilon, X, norm), norm)
    assert projected.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@every_norm
@given(perturbations, boxes, budgets)
def test_projection_is_feasible_and_idempotent(norm, perturbation, images, epsilon):
    projected = project(perturbation, images, epsilon, norm)
    assert length(projected, norm) <= epsilon.item() * (1 + 1e-6)
    assert ((images + projected).clamp(0, 1) - images - projected).abs().max() <= 1e-7
    again = project(projected, images, epsilon, norm)
    assert torch.allclose(again, projected, atol=1e-6)


@every_norm
@given(perturbations, perturbations, boxes, budgets)
def test_projection_is_the_nearest_point(norm, perturbation, other, images, epsilon):
    """The nearest point p of a convex set has <u - p, q - p> <= 0 for every q in it."""
    projected = project(perturbation, images, epsilon, norm).double()
    inside = project(other, images, epsilon, norm).double()
    assert ((perturbation - projected) * (inside - projected)).sum() <= 1e-5


@every_norm
@given(perturbations, perturbations, boxes, budgets)
def test_projection_never_parts_two_points(norm, first, second, images, epsilon):
    near = project(first, images, epsilon, norm) - project(second, images, epsilon, norm)
    assert length(near, "l2") <= length(first - second, "l2") + 1e-5


@every_norm
@given(perturbations, boxes, budgets, st.floats(0, 1, width=32))
def test_what_is_inside_stays(norm, perturbation, images, epsilon, share):
    inside = share * 0.999 * project(perturbation, images, epsilon, norm)
    assert torch.equal(project(inside, images, epsilon, norm), inside)


@every_norm
@given(perturbations, boxes, budgets, st.permutations(range(PIXELS)))
def test_projection_knows_no_order_of_pixels(norm, perturbation, images, epsilon, order):
    projected = project(perturbation, images, epsilon, norm)[..., order]
    permuted = project(perturbation[..., order], images[..., order], epsilon, norm)
    assert torch.allclose(permuted, projected, atol=1e-6)


@every_norm
@given(perturbations, boxes, budgets)
def test_projection_of_the_negative_is_the_negative(norm, perturbation, images, epsilon):
    projected = project(perturbation, images, epsilon, norm)
    mirrored = project(-perturbation, 1 - images, epsilon, norm)
    assert torch.allclose(mirrored, -projected, atol=1e-6)


@given(perturbations, boxes, budgets)
def test_a_constant_radius_per_pixel_is_a_number(perturbation, images, epsilon):
    number = project(perturbation, images, epsilon, "linf")
    per_pixel = project(perturbation, images, epsilon.expand_as(images), "linf")
    assert torch.equal(per_pixel, number)


@every_norm
def test_every_image_is_projected_alone(norm):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 3, 4, 4, generator=generator)
    perturbation = torch.randn(20, 3, 4, 4, generator=generator)
    epsilon = torch.linspace(0, 1, 20).view(-1, 1, 1, 1)
    together = project(perturbation, images, epsilon, norm)
    for i in range(20):
        one = slice(i, i + 1)
        alone = project(perturbation[one], images[one], epsilon[one], norm)
        assert torch.allclose(together[one], alone, atol=1e-6)


@every_norm
@given(gradients, st.floats(0, 1, width=32))
def test_step_attains_the_dual_norm(norm, gradient, step_size):
    step = steepest_step(gradient, torch.full((1, 1, 1, 1), step_size), norm)
    dual = gradient.double().abs().sum() if norm == "linf" else gradient.double().norm()
    climb = (gradient.double() * step.double()).sum().item()
    assert climb == pytest.approx(step_size * dual.item(), rel=1e-5, abs=1e-7)
    assert length(step, norm) <= step_size * (1 + 1e-6)


@every_norm
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1, 1e12, 1e30, 3e38])
def test_step_has_its_length_whatever_the_gradient_is_measured_in(norm, scale):
    step = steepest_step(scale * row(-0.6, 0, 0.8), torch.full((1, 1, 1, 1), 0.1), norm)
    expected = [-0.1, 0, 0.1] if norm == "linf" else [-0.06, 0, 0.08]
    assert step.flatten().tolist() == pytest.approx(expected, rel=0.15 if scale < 1e-40 else 1e-5)


@every_norm
def test_no_gradient_no_step(norm):
    assert not steepest_step(torch.zeros(2, 1, 2, 2), torch.ones(1, 1, 1, 1), norm).any()


@every_norm
@given(boxes, budgets, st.integers(-(2**63), 2**63 - 1), st.integers(0, 100))
def test_start_is_feasible(norm, images, epsilon, seed, stream):
    start = random_start(images, epsilon, norm, torch.tensor([seed]), stream=stream)
    assert length(start, norm) <= epsilon.item() * (1 + 1e-6)
    assert ((images + start).clamp(0, 1) - images - start).abs().max() <= 1e-7


def starts(images, epsilon, norm, count, stream=0):
    many = images.expand(count, -1, -1, -1)
    seeds = sample_seeds(0, count, images.device)
    return random_start(many, radius(epsilon, many, norm), norm, seeds, stream=stream)


def test_linf_start_is_uniform_on_ball_and_box_with_no_atoms_on_the_walls():
    images = row(0.0, 0.05, 0.5, 1.0)
    drawn = starts(images, 0.1, "linf", 40_000).flatten(1).double()
    for pixel, (low, high) in enumerate([(0, 0.1), (-0.05, 0.1), (-0.1, 0.1), (-0.1, 0)]):
        share = (drawn[:, pixel] - low) / (high - low)
        counts = torch.histc(share.float(), 64, 0, 1)
        assert counts.sum() == 40_000 and (counts - 625).abs().max() < 5 * 25
    assert torch.corrcoef(drawn.T).sub(torch.eye(4)).abs().max() < 0.025


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 32, 32)])
def test_l2_start_has_the_mean_radius_of_a_uniform_ball(shape):
    pixels = math.prod(shape)
    drawn = starts(torch.full((1, *shape), 0.5), 0.4, "l2", 1_500)
    mean = distance(drawn, "l2").double().mean().item() / 0.4
    assert mean == pytest.approx(pixels / (pixels + 1), abs=4e-4)


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_l2_start_is_uniform_on_a_disc(stream):
    """Equal areas hold equally many points: squared radius times angle, in 8 x 8 cells."""
    drawn = starts(row(0.5, 0.5), 0.5, "l2", 64_000, stream).flatten(1)
    area = (drawn.norm(dim=1) / 0.5).square().clamp(0, 1 - 1e-7)
    turn = torch.atan2(drawn[:, 0], drawn[:, 1]) / (2 * torch.pi) + 0.5
    cells = (area * 8).long() * 8 + (turn.clamp(0, 1 - 1e-7) * 8).long()
    counts = torch.bincount(cells, minlength=64)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)


@every_norm
def test_another_stream_is_another_start(norm):
    first, second = (starts(row(0.5, 0.5, 0.5), 0.1, norm, 5, stream) for stream in (0, 1))
    assert not torch.isclose(first, second).any()


def test_distances():
    perturbation = torch.cat([row(0.3, -0.4), row(0.0, 0.1)])
    assert distance(perturbation, "linf").tolist() == pytest.approx([0.4, 0.1])
    assert distance(perturbation, "l2").tolist() == pytest.approx([0.5, 0.1])


@every_norm
def test_radius_covers_all_images_there_are(norm):
    """No two images of [0, 1] are further apart than the largest radius."""
    images = torch.zeros(1, 3, 2, 2)
    largest = distance(torch.ones_like(images), norm).item()
    assert radius(largest * 0.999, images, norm).item() == pytest.approx(largest * 0.999)
    with pytest.raises(ValueError, match="epsilon must be in"):
        radius(largest * 1.001, images, norm)
