"""Projection, steps, random starts and linear oracle: worked values and what always holds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.attacks.geometry import (
    NORMS,
    distance,
    dual_norm,
    project,
    radius,
    random_start,
    steepest_perturbation,
    steepest_step,
)
from components.randomness import sample_seeds

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
        ("l1", 0.65, (0.1, -0.2, 0.2, 0.1)),
        ("l1", 0.3, (0.1, -0.15, 0.05, 0)),
    ],
)
def test_projection_of_a_worked_case(norm, epsilon, expected):
    projected = project(U, X, radius(epsilon, X, norm), norm)
    assert projected.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("images", "perturbation", "epsilon", "expected"),
    [
        (row(0.5, 0.5, 0.5, 0.5), (0.3, -0.1, 0.05, 0), 0.2, (0.2, 0, 0, 0)),
        (row(0.5, 0.5, 0.5, 0.5), (0.3, -0.1, 0.05, 0), 0.4, (0.2833333, -0.0833333, 0.0333333, 0)),
        (row(0.5, 0.5, 0.5, 0.5), (0.5, 0.4, -0.3, 0.2), 1, (0.4, 0.3, -0.2, 0.1)),
        (X, (0.8, -0.6, 0.4, 0.1), 0.6, (0.1, -0.2, 0.3, 0)),  # ball, then box: norm .3 only
    ],
)
def test_l1_projection_of_a_worked_case(images, perturbation, epsilon, expected):
    projected = project(row(*perturbation), images, radius(epsilon, images, "l1"), "l1")
    assert projected.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def onto_ball(points, radii, norm):
    """Project onto a ball without a box; for L1 by the sorted sizes."""
    if norm == "l2":
        return points * np.minimum(1, radii / np.linalg.norm(points, axis=1, keepdims=True))
    sizes = -np.sort(-np.abs(points), axis=1)
    means = (sizes.cumsum(1) - radii) / np.arange(1, sizes.shape[1] + 1)
    last = (sizes > means).sum(1) - 1
    threshold = np.maximum(np.take_along_axis(means, last[:, None], 1), 0)
    return np.sign(points) * np.maximum(np.abs(points) - threshold, 0)


@pytest.mark.parametrize(("pixels", "scale"), [(3, 0.5), (12, 0.1), (12, 5), (50, 0.3)])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_projection_is_what_alternating_projections_come_to(norm, pixels, scale):
    """Dykstra, 1983: ball and box in turn, each time less what it took away before."""
    generator = np.random.default_rng(0)
    images = np.clip(generator.normal(0.5, 0.5, (60, pixels)), 0, 1).astype(np.float32)
    perturbation = generator.normal(0, scale, (60, pixels)).astype(np.float32)
    epsilon = generator.uniform(0.05, 1, (60, 1)).astype(np.float32)
    point, from_ball, from_box = perturbation.astype(np.float64), 0.0, 0.0
    for _ in range(3000):
        inside = onto_ball(point + from_ball, epsilon, norm)
        from_ball = point + from_ball - inside
        point = np.clip(inside + from_box, -images.astype(np.float64), 1.0 - images)
        from_box = inside + from_box - point
    shape = (60, 1, 1, pixels)
    projected = project(
        torch.tensor(perturbation).view(shape),
        torch.tensor(images).view(shape),
        torch.tensor(epsilon).view(60, 1, 1, 1),
        norm,
    )
    assert np.abs(projected.flatten(1).numpy() - point).max() < 2e-6


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_projection_of_many_pixels_of_many_sizes(norm):
    """The conditions of the nearest point, where Newton's steps have the longest way to go."""
    generator = torch.Generator().manual_seed(0)
    shape = (200, 3, 16, 16)
    images = torch.rand(shape, generator=generator)
    exponents = torch.rand(shape, generator=generator) * 6 - 6
    perturbation = torch.randn(shape, generator=generator) * 10**exponents
    sizes = distance(torch.clamp(perturbation, -images, 1 - images), norm).view(-1, 1, 1, 1)
    epsilon = sizes * torch.linspace(0.001, 0.999, 200).view(-1, 1, 1, 1)
    projected = project(perturbation, images, epsilon, norm)
    assert torch.allclose(distance(projected, norm), epsilon.flatten(), rtol=1e-6)
    room = torch.where(perturbation > 0, 1 - images, images)
    moved = (projected != 0) & (projected.abs() < room * (1 - 1e-5))
    if norm == "l2":  # every pixel off the wall is scaled alike
        factor = (projected / perturbation).masked_fill(~moved, torch.nan).flatten(1)
    else:  # or shortened alike
        factor = (perturbation - projected).abs().masked_fill(~moved, torch.nan).flatten(1)
    middle = factor.nanmedian(1, keepdim=True).values
    atol = 2e-5 if norm == "l2" else 2e-6
    assert ((factor - middle).abs().nan_to_num() <= atol).all()


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


MIDDLE = row(*[0.5] * PIXELS)


@every_norm
@given(gradients, st.floats(0, 1, width=32))
def test_step_attains_the_dual_norm(norm, gradient, step_size):
    step = steepest_step(gradient, MIDDLE, torch.full((1, 1, 1, 1), step_size), norm)
    dual = gradient.double().abs().flatten()
    dual = {"linf": dual.sum(), "l2": dual.norm(), "l1": dual.max()}[norm].item()
    assert dual_norm(gradient, norm).item() == pytest.approx(dual, rel=1e-5)
    climb = (gradient.double() * step.double()).sum().item()
    assert climb == pytest.approx(step_size * dual, rel=1e-5, abs=1e-7)
    assert length(step, norm) <= step_size * (1 + 1e-6)


@given(gradients, st.integers(1, PIXELS))
def test_l1_step_of_the_steepest_pixels_climbs_by_their_mean(gradient, count):
    share = count / PIXELS + 1e-3
    step = steepest_step(gradient, MIDDLE, torch.full((1, 1, 1, 1), 0.5), "l1", share=share)
    steepest = gradient.double().abs().flatten().sort(descending=True).values[:count]
    climb = (gradient.double() * step.double()).sum().item()
    moving = steepest[steepest > 0]  # and whatever is as steep as the last of them
    assert climb == pytest.approx(0.5 * moving.mean().item() if len(moving) else 0, rel=0.5)
    if len(steepest.unique()) == count and (gradient.abs() == steepest[-1]).sum() == 1:
        assert climb == pytest.approx(0.5 * moving.mean().item() if len(moving) else 0, rel=1e-5)
        assert (step != 0).sum() == len(moving)
        assert length(step, "l1") == pytest.approx(0.5 if len(moving) else 0)


def test_l1_step_leaves_out_what_the_wall_holds():
    gradient, step_size = row(5, -4, 3, -2, 1), torch.full((1, 1, 1, 1), 0.6)
    points = row(1, 0, 0.9, 1, 0)
    step = steepest_step(gradient, points, step_size, "l1")
    assert step.flatten().tolist() == pytest.approx([0, 0, 0.6, 0, 0])
    partial_step = steepest_step(gradient, points, step_size, "l1", share=0.4)
    assert partial_step.flatten().tolist() == pytest.approx([0, 0, 0.3, -0.3, 0])
    everything = steepest_step(gradient, points, step_size, "l1", share=1.0)
    assert everything.flatten().tolist() == pytest.approx([0, 0, 0.2, -0.2, 0.2])
    walled = steepest_step(gradient, row(1, 0, 1, 0, 1), step_size, "l1")
    assert not walled.any()


def test_every_image_may_have_its_own_share():
    gradient, points = row(5, -4, 3, -2, 1).repeat(3, 1, 1, 1), torch.full((3, 1, 1, 5), 0.5)
    share = torch.tensor([0.2, 0.4, 1.0])
    step = steepest_step(gradient, points, torch.ones(1, 1, 1, 1), "l1", share=share)
    assert (step != 0).sum((1, 2, 3)).tolist() == [1, 2, 5]
    assert distance(step, "l1").tolist() == pytest.approx([1, 1, 1])


@every_norm
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1, 1e12, 1e30, 3e38])
def test_step_has_its_length_whatever_the_gradient_is_measured_in(norm, scale):
    gradient = scale * row(-0.6, 0, 0.8)
    step = steepest_step(gradient, row(0.5, 0.5, 0.5), torch.full((1, 1, 1, 1), 0.1), norm)
    expected = {"linf": [-0.1, 0, 0.1], "l2": [-0.06, 0, 0.08], "l1": [0, 0, 0.1]}[norm]
    assert step.flatten().tolist() == pytest.approx(expected, rel=0.15 if scale < 1e-40 else 1e-5)


@every_norm
def test_no_gradient_no_step(norm):
    images = torch.full((2, 1, 2, 2), 0.5)
    assert not steepest_step(torch.zeros(2, 1, 2, 2), images, torch.ones(1, 1, 1, 1), norm).any()
    budget = torch.full((1, 1, 1, 1), 0.1)
    assert not steepest_perturbation(torch.zeros(2, 1, 2, 2), images, budget, norm).any()


@every_norm
@given(gradients, perturbations, boxes, budgets)
def test_no_perturbation_in_ball_and_box_climbs_further(norm, direction, other, images, epsilon):
    best = steepest_perturbation(direction, images, epsilon, norm)
    assert length(best, norm) <= epsilon.item() * (1 + 1e-6) + 1e-30
    assert ((images + best).clamp(0, 1) - images - best).abs().max() <= 1e-7
    for rival in (other, 1e3 * direction.sign(), 1e3 * direction, other * direction):
        rival = project(rival, images, epsilon, norm)
        climbs = [(direction.double() * point.double()).sum() for point in (rival, best)]
        assert climbs[0] <= climbs[1] + 1e-5 * direction.abs().max()


FREE = [0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2]


@pytest.mark.parametrize(
    ("norm", "epsilon", "margins"),
    [
        ("linf", 0.1, (0.7, 0.4)),
        ("linf", 0.2, (0.15, -0.2)),
        ("l2", 0.2, (0.658392, 0.292893)),
        ("l2", 0.4, (0.066784, -0.414214)),
        ("l1", 0.3, (0.65, 0.1)),
        ("l1", 0.6, (0.05, -0.8)),
        ("l1", 1.0, (-0.6, -1.4)),  # without the box -0.75 and -2
    ],
)
def test_worst_margins_of_the_tiny_model(norm, epsilon, margins, tiny):
    model, image, _ = tiny(*FREE)
    weight = model[1].weight.detach()
    for other, worst in zip((1, 2), margins, strict=True):
        direction = (weight[other] - weight[0]).view(image.shape)
        moved = image + steepest_perturbation(direction, image, radius(epsilon, image, norm), norm)
        logits = model(moved)[0]
        assert (logits[0] - logits[other]).item() == pytest.approx(worst, abs=1e-6)
    climb = epsilon * dual_norm(direction, norm).item()
    assert (model(image)[0, 0] - model(image)[0, 2]).item() - climb == pytest.approx(
        -2.0 if epsilon == 1 else margins[1], abs=1e-6
    )


# Norm and radius -> exact robust accuracy with the box, and without.
EXACT = {
    ("linf", 1 / 255): (0.8125, 0.8100),
    ("linf", 2 / 255): (0.7850, 0.7775),
    ("linf", 4 / 255): (0.7050, 0.6850),
    ("linf", 8 / 255): (0.4400, 0.3850),
    ("linf", 16 / 255): (0.0950, 0.0700),
    ("l2", 0.1): (0.7675, 0.7650),
    ("l2", 0.25): (0.6000, 0.5725),
    ("l2", 0.5): (0.2475, 0.2225),
    ("l2", 1.0): (0.0075, 0.0075),
    ("l1", 0.5): (0.7850, 0.7850),
    ("l1", 1.0): (0.7025, 0.6975),
    ("l1", 2.0): (0.4725, 0.4250),
    ("l1", 4.0): (0.1300, 0.1000),
    ("l1", 8.0): (0.0, 0.0),
}


@pytest.mark.parametrize(("norm", "epsilon"), EXACT)
def test_exact_robust_accuracy_of_the_linear_problem(norm, epsilon, lin400):
    model, images, labels = lin400
    weight, logits = model[1].weight.detach(), model(images).detach()
    budget = radius(epsilon, images, norm)
    boxed = unboxed = torch.ones(len(images), dtype=torch.bool)
    for other in range(4):
        direction = (weight[other] - weight[labels]).view(images.shape)
        behind = logits[:, other] - logits.gather(1, labels[:, None])[:, 0]
        best = steepest_perturbation(direction, images, budget, norm)
        same = labels == other
        boxed = boxed & ((behind + (direction * best).flatten(1).sum(1) < 0) | same)
        unboxed = unboxed & ((behind + epsilon * dual_norm(direction, norm) < 0) | same)
    robust = tuple(kept.double().mean().item() for kept in (boxed, unboxed))
    assert robust == pytest.approx(EXACT[norm, epsilon])


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


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 32, 32)])
def test_start_has_the_mean_radius_of_a_uniform_ball(shape, norm):
    pixels = math.prod(shape)
    drawn = starts(torch.full((1, *shape), 0.5), 0.4, norm, 1_500)
    lengths = distance(drawn, norm).double() / 0.4
    assert lengths.mean().item() == pytest.approx(pixels / (pixels + 1), abs=4e-4)
    volumes = torch.histc(
        lengths.clamp(max=1).pow(pixels).float(), 10, 0, 1
    )  # equally many in equal volumes
    assert volumes.sum() == 1_500 and (volumes - 150).abs().max() < 5 * math.sqrt(150)


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_l2_start_is_uniform_on_a_disc(stream):
    """Equal areas hold equally many points: squared radius times angle, in 8 x 8 cells."""
    drawn = starts(row(0.5, 0.5), 0.5, "l2", 64_000, stream).flatten(1)
    area = (drawn.norm(dim=1) / 0.5).square().clamp(0, 1 - 1e-7)
    turn = torch.atan2(drawn[:, 0], drawn[:, 1]) / (2 * torch.pi) + 0.5
    cells = (area * 8).long() * 8 + (turn.clamp(0, 1 - 1e-7) * 8).long()
    counts = torch.bincount(cells, minlength=64)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_l1_start_is_uniform_on_a_diamond(stream):
    """Turned by an eighth it is a square."""
    drawn = starts(row(0.5, 0.5), 0.5, "l1", 64_000, stream).flatten(1)
    turned = torch.stack([drawn[:, 0] + drawn[:, 1], drawn[:, 0] - drawn[:, 1]])
    cells = ((turned + 0.5) * 8).long().clamp(0, 7)
    counts = torch.bincount(cells[0] * 8 + cells[1], minlength=64)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)


def test_l1_start_spreads_evenly_over_the_pixels():
    """The mean size of a pixel of a point uniform in the ball is epsilon / (d + 1)."""
    drawn = starts(torch.full((1, 1, 1, 9), 0.5), 0.5, "l1", 40_000).flatten(1).double()
    assert drawn.abs().mean(0).tolist() == pytest.approx([0.05] * 9, rel=0.03)
    assert drawn.mean(0).abs().max() < 0.002


@every_norm
def test_another_stream_is_another_start(norm):
    first, second = (starts(row(0.5, 0.5, 0.5), 0.1, norm, 5, stream) for stream in (0, 1))
    assert not torch.isclose(first, second).any()


def test_distances():
    perturbation = torch.cat([row(0.3, -0.4), row(0.0, 0.1)])
    assert distance(perturbation, "linf").tolist() == pytest.approx([0.4, 0.1])
    assert distance(perturbation, "l2").tolist() == pytest.approx([0.5, 0.1])
    assert distance(perturbation, "l1").tolist() == pytest.approx([0.7, 0.1])
    for norm, dual in [("linf", "l1"), ("l2", "l2"), ("l1", "linf")]:
        assert torch.equal(dual_norm(perturbation, norm), distance(perturbation, dual))


@every_norm
def test_radius_covers_all_images_there_are(norm):
    """No two images of [0, 1] are further apart than the largest radius."""
    images = torch.zeros(1, 3, 2, 2)
    largest = distance(torch.ones_like(images), norm).item()
    assert radius(largest * 0.999, images, norm).item() == pytest.approx(largest * 0.999)
    with pytest.raises(ValueError, match="epsilon must be in"):
        radius(largest * 1.001, images, norm)
