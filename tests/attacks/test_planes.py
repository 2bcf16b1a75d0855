"""Nearest points of planes: worked cases, independent solvers, and what must hold for any plane."""

import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from components.attacks.geometry import NORMS, distance
from components.attacks.planes import nearest_on_plane, nearest_plane, rivals

every_norm = pytest.mark.parametrize("norm", NORMS)
FREE = [0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2]
WALLED = [1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2]


def row(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def problem(count, pixels=8, seed=0, dtype=torch.float64):
    """Planes in reach, some at the far end of it, with pixels on the walls and flat directions."""
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn(count, 1, 1, pixels, generator=generator, dtype=torch.float64)
    points = torch.rand(count, 1, 1, pixels, generator=generator, dtype=torch.float64)
    points[::3, ..., 0], points[1::3, ..., 1], normals[::4, ..., 2] = 0, 1, 0
    shares = torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1
    rooms = torch.where(normals * shares.view(-1, 1, 1, 1) > 0, 1 - points, points)
    gaps = shares * (normals.abs() * rooms).flatten(1).sum(1)
    return normals.to(dtype), gaps.to(dtype), points.to(dtype)


def closed(normals, perturbation):
    return (normals * perturbation).flatten(1).sum(1)


def plane_to(target, case, tiny):
    """Where class 0 and the target are equal: the difference of their weights and logits."""
    model, point, _ = tiny(*case)
    logits = model(point)[0].detach()
    normal = (model[1].weight[target] - model[1].weight[0]).detach().view(1, 1, 1, 4)
    return normal, (logits[0] - logits[target]).view(1), point


@pytest.mark.parametrize(
    ("case", "target", "norm", "expected"),
    [
        (FREE, 1, "linf", 0.227273),
        (FREE, 1, "l2", 0.422577),
        (FREE, 1, "l1", 0.625),
        (FREE, 2, "linf", 0.166667),
        (FREE, 2, "l2", 0.282843),
        (FREE, 2, "l1", 0.333333),
        (WALLED, 1, "linf", 0.7125),
        (WALLED, 1, "l2", 1.122326),
        (WALLED, 1, "l1", 1.7),
        (WALLED, 2, "linf", 0.46),
        (WALLED, 2, "l2", 0.653394),
        (WALLED, 2, "l1", 0.9),
    ],
)
def test_distance_of_a_worked_case(case, target, norm, expected, tiny):
    perturbation = nearest_on_plane(*plane_to(target, case, tiny), norm)
    assert distance(perturbation, norm).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("target", "norm", "expected"),
    [
        (1, "linf", 0.545455),
        (1, "l2", 1.014185),
        (1, "l1", 1.5),
        (2, "linf", 0.25),
        (2, "l2", 0.424264),
        (2, "l1", 0.5),
    ],
)
def test_distance_without_a_box(target, norm, expected, tiny):
    """The walls are out of the way once the same plane is a hundred times nearer."""
    normal, gap, _ = plane_to(target, WALLED, tiny)
    perturbation = nearest_on_plane(normal, gap / 100, row(0.5, 0.5, 0.5, 0.5), norm)
    assert 100 * distance(perturbation, norm).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("case", "norm", "expected"),
    [
        (FREE, "linf", (-0.166667, 0.166667, 0.166667, 0.166667)),
        (FREE, "l2", (-0.24, 0.12, 0.04, 0.08)),
        (FREE, "l1", (-0.333333, 0, 0, 0)),
        (WALLED, "l2", (-0.1, 0.530769, 0.1, 0.353846)),
        (WALLED, "l1", (-0.1, 0.8, 0, 0)),
    ],
)
def test_nearest_point_of_a_worked_case(case, norm, expected, tiny):
    perturbation = nearest_on_plane(*plane_to(2, case, tiny), norm)
    assert perturbation.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def solved(normal, gap, point, norm):
    """The distance according to SciPy: linear programs for linf and L1, a quadratic one for L2."""
    size = len(normal)
    if norm == "l2":
        found = minimize(
            lambda d: d @ d,
            normal * gap / (normal @ normal),
            jac=lambda d: 2 * d,
            bounds=list(zip(-point, 1 - point, strict=True)),
            constraints={"type": "eq", "fun": lambda d: normal @ d - gap, "jac": lambda _: normal},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert found.success
        return found.fun**0.5
    identity = torch.eye(size, dtype=torch.float64).numpy()
    bound = identity if norm == "l1" else torch.ones(size, 1, dtype=torch.float64).numpy()
    costs = [0.0] * size + [1.0] * bound.shape[1]
    found = linprog(
        costs,
        A_ub=[[*sign * identity[i], *-bound[i]] for sign in (1, -1) for i in range(size)],
        b_ub=[0.0] * (2 * size),
        A_eq=[[*normal, *[0.0] * bound.shape[1]]],
        b_eq=[gap],
        bounds=[*zip(-point, 1 - point, strict=True), *[(0, None)] * bound.shape[1]],
    )
    assert found.success
    return found.fun


@every_norm
def test_distance_is_that_of_an_independent_solver(norm):
    normals, gaps, points = problem(80)
    perturbation = nearest_on_plane(normals, gaps, points, norm)
    expected = [
        solved(normal.flatten().numpy(), gap.item(), point.flatten().numpy(), norm)
        for normal, gap, point in zip(normals, gaps, points, strict=True)
    ]
    assert distance(perturbation, norm).tolist() == pytest.approx(expected, rel=1e-6)


@every_norm
@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_gap_is_closed_in_the_box(dtype, accuracy, norm):
    normals, gaps, points = problem(300, pixels=500, dtype=dtype)
    perturbation = nearest_on_plane(normals, gaps, points, norm)
    moved = points + perturbation
    assert moved.min() >= -1e-7 and moved.max() <= 1 + 1e-7
    scale = (normals.abs() * perturbation.abs()).flatten(1).sum(1)
    assert ((closed(normals, perturbation) - gaps).abs() <= accuracy * scale).all()
    assert perturbation.dtype == dtype


@every_norm
def test_no_other_point_of_the_plane_is_nearer(norm):
    """Away from the answer along the plane, in the box, the distance never falls."""
    normals, gaps, points = problem(50)
    nearest = nearest_on_plane(normals, gaps, points, norm)
    for seed in range(20):
        others, _, _ = problem(50, seed=100 + seed)
        target = nearest_on_plane(others.abs() * normals, gaps, points, norm)
        reached = (closed(normals, target) / gaps).view(-1, 1, 1, 1)
        candidate = target / reached
        fits = ((points + candidate).clamp(0, 1) == points + candidate).flatten(1).all(1)
        assert (distance(candidate, norm)[fits] >= distance(nearest, norm)[fits] * (1 - 1e-9)).all()


@every_norm
def test_length_and_side_of_the_normal_do_not_matter(norm):
    normals, gaps, points = problem(40, dtype=torch.float32)
    plain = nearest_on_plane(normals, gaps, points, norm)
    for factor in (-1.0, 2.0**-100, 2.0**100):
        scaled = nearest_on_plane(factor * normals, factor * gaps, points, norm)
        assert torch.equal(scaled, plain)


@every_norm
def test_mirrored_and_shuffled_boxes(norm):
    normals, gaps, points = problem(40)
    plain = nearest_on_plane(normals, gaps, points, norm)
    mirrored = nearest_on_plane(-normals, gaps, 1 - points, norm)
    assert torch.allclose(mirrored, -plain, atol=1e-12)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    shuffled = nearest_on_plane(normals[..., order], gaps, points[..., order], norm)
    assert torch.allclose(shuffled, plain[..., order], atol=1e-12)


@every_norm
def test_a_plane_out_of_reach_takes_all_the_room(norm):
    normals, points = row(2.0, -1.0, 0.0, 0.5), row(0.1, 0.3, 0.6, 1.0)
    for gap in (2.1001, 1e6, torch.inf):
        perturbation = nearest_on_plane(normals, torch.tensor([gap]), points, norm)
        assert perturbation.flatten().tolist() == pytest.approx([0.9, -0.3, 0, 0])


@every_norm
def test_nothing_moves_without_a_normal_or_a_gap(norm):
    points = row(0.0, 0.3, 1.0)
    assert not nearest_on_plane(torch.zeros(1, 1, 1, 3), torch.ones(1), points, norm).any()
    assert not nearest_on_plane(torch.ones(1, 1, 1, 3), torch.zeros(1), points, norm).any()


@every_norm
def test_every_image_is_solved_as_if_alone(norm):
    normals, gaps, points = problem(30, pixels=400, dtype=torch.float32)
    normals = normals.sign() * (normals.abs() * 4).ceil()  # with many equal slopes
    together = nearest_on_plane(normals, gaps, points, norm)
    alone = [
        nearest_on_plane(normals[i : i + 1], gaps[i : i + 1], points[i : i + 1], norm)
        for i in range(30)
    ]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_many_pieces_of_very_different_size(norm):
    """Rooms and slopes that halve from pixel to pixel: every step of Newton ends one piece."""
    powers = 2.0 ** -torch.arange(40, dtype=torch.float64).view(1, 1, 1, 40)
    capacity = (powers.flip(3) * powers).sum()
    gaps = capacity * (1 - 2.0 ** -torch.arange(1, 30, dtype=torch.float64))
    normals, points = powers.flip(3).expand(29, -1, -1, -1), (1 - powers).expand(29, -1, -1, -1)
    perturbation = nearest_on_plane(normals, gaps, points, norm)
    assert closed(normals, perturbation).tolist() == pytest.approx(gaps.tolist(), rel=1e-9)


def test_rivals_are_ranked_by_their_logits():
    logits, labels = torch.tensor([[1.0, 4, 3, 2], [-5, -9, -7, -6]]), torch.tensor([1, 0])
    assert rivals(logits, labels).tolist() == [[2, 3, 0], [3, 2, 1]]
    assert rivals(logits, labels, 2).tolist() == [[2, 3], [3, 2]]
    assert rivals(logits, labels, 9).tolist() == [[2, 3, 0], [3, 2, 1]]


@pytest.mark.parametrize(
    ("case", "norm", "nearest"), [(FREE, "linf", 2), (FREE, "l1", 2), (WALLED, "l2", 2)]
)
def test_nearest_plane_of_a_linear_model(case, norm, nearest, tiny):
    model, point, label = tiny(*case)
    normal, gap, _ = plane_to(nearest, case, tiny)
    lead, gradient, step, logits = nearest_plane(model, point, label, torch.tensor([[1, 2]]), norm)
    assert lead.tolist() == pytest.approx((-gap).tolist())
    assert torch.allclose(gradient, normal) and torch.allclose(logits, model(point))
    assert torch.allclose(step, nearest_on_plane(normal, gap, point, norm), atol=1e-6)


def test_a_plane_within_reach_is_nearer_than_one_the_box_keeps_away():
    """Class 1 needs a pixel that is full already; its plane alone would seem the nearest."""
    layer = nn.Linear(2, 3)
    layer.weight.data = torch.tensor([[0.0, 0], [10, 0], [0, 1]])
    layer.bias.data = torch.tensor([0.0, -11, -0.8])
    model, point = nn.Sequential(nn.Flatten(), layer), row(1.0, 0.5)
    classes = torch.tensor([[1, 2]])
    for norm in NORMS:
        lead, _, step, _ = nearest_plane(model, point, torch.tensor([0]), classes, norm)
        assert lead.item() == pytest.approx(-0.3)
        assert step.flatten().tolist() == pytest.approx([0, 0.3])


def test_one_forward_pass_for_all_classes(lin400):
    asked = []

    def model(images):
        asked.append(len(images))
        return lin400.model(images)

    classes = rivals(lin400.model(lin400.images).detach(), lin400.labels)
    nearest_plane(model, lin400.images, lin400.labels, classes, "l2")
    assert asked == [400]


def test_model_without_gradient_is_refused(lin400):
    classes = torch.tensor([[1, 2]])
    for model in (lambda x: lin400.model(x.detach()), lambda x: lin400.model(x).detach()):
        with pytest.raises(ValueError, match="attack it through its honest view"):
            nearest_plane(model, lin400.images[:1], torch.tensor([0]), classes, "linf")
