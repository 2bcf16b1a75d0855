"""HopSkipJump: near the exact distance from decisions alone, within its budget of queries."""

import math

import pytest
import torch

from components.attacks.geometry import distance
from components.attacks.hop_skip_jump import hop_skip_jump

every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def unboxed_distances(problem, norm):
    """Give the distance of each image to the nearest hyperplane, were there no box."""
    weight = problem.model[1].weight.detach()
    with torch.no_grad():
        logits = problem.model(problem.images)
    own = problem.labels[:, None]
    gaps = logits.gather(1, own) - logits
    slopes = (weight - weight[problem.labels][:, None]).norm(p=1 if norm == "linf" else 2, dim=2)
    return (gaps / slopes).scatter(1, own, torch.inf).amin(1)


def some(problem, count=24):
    with torch.no_grad():
        right = problem.model(problem.images).argmax(1) == problem.labels
    return right.nonzero().flatten()[:count]


class Counted:
    """Counts the points a model is asked about."""

    def __init__(self, model):
        self.model, self.asked, self.largest = model, 0, 0

    def __call__(self, images):
        assert not torch.is_grad_enabled() and images.min() >= 0 and images.max() <= 1
        self.asked, self.largest = self.asked + len(images), max(self.largest, len(images))
        return self.model(images)


@pytest.mark.parametrize(
    ("biases", "pixels", "norm", "exact"),
    [
        ([0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2], "linf", 0.166667),
        ([0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2], "l2", 0.282843),
        ([1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2], "linf", 0.46),
        ([1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2], "l2", 0.653394),
    ],
)
def test_near_the_exact_distance(biases, pixels, norm, exact, tiny):
    """Worked by hand, the last two with walls of the box in the way (specification, 10.1)."""
    model, image, label = tiny(biases, pixels)
    adversarial = hop_skip_jump(model, image, label, epsilon=None, norm=norm, steps=15)
    assert model(adversarial).argmax(1) != label
    assert exact <= distance(adversarial - image, norm).item() <= 1.06 * exact


@pytest.mark.parametrize(("norm", "median"), [("linf", 1.5), ("l2", 1.2)])
def test_nears_the_hyperplanes(norm, median, lin400):
    rows = some(lin400)
    exact = unboxed_distances(lin400, norm)[rows]
    images, labels = lin400.images[rows], lin400.labels[rows]
    model = Counted(lin400.model)
    ratios = []
    for steps in (1, 4, 12):
        adversarial = hop_skip_jump(model, images, labels, epsilon=None, norm=norm, steps=steps)
        assert (lin400.model(adversarial).argmax(1) != labels).all()
        ratios.append(distance(adversarial - images, norm) / exact)
    assert (ratios[2] >= 1).all() and ratios[2].median() < median
    # One seed, so the longer walk begins with the shorter one.
    assert (ratios[1] <= ratios[0] * 1.001).all() and (ratios[2] <= ratios[1] * 1.001).all()
    assert model.largest <= 256


@every_norm
def test_curved_boundary(norm, sphere):
    inside = sphere.labels == 1
    images, labels = sphere.images[inside], sphere.labels[inside]
    adversarial = hop_skip_jump(sphere.model, images, labels, epsilon=None, norm=norm, steps=12)
    ratios = distance(adversarial - images, norm) / sphere.distances[norm][inside]
    assert (ratios > 0.999).all() and ratios.median() < 1.5


@every_norm
def test_sees_decisions_only(norm, lin400):
    """Labels as logits, and logits that hide the margin, lead to the same images."""
    rows = some(lin400, 6)

    def labels_only(images):
        logits = lin400.model(images)
        return (logits == logits.amax(1, keepdim=True)).float()  # with the ties that there are

    def shrunk(images):
        return lin400.model(images) / 2**20

    plain, one_hot, small = (
        hop_skip_jump(
            model, lin400.images[rows], lin400.labels[rows], epsilon=None, norm=norm, steps=4
        )
        for model in (lin400.model, labels_only, shrunk)
    )
    assert torch.equal(plain, one_hot) and torch.equal(plain, small)


def test_shattered_gradients_do_not_matter(lin400):
    """They turn round twice in a hundredth; wide directions see the slope behind."""
    rows = some(lin400)
    images, labels = lin400.images[rows], lin400.labels[rows]

    def shattered(points):
        return lin400.model(points + 0.02 * torch.sin(200 * math.pi * points))

    with torch.no_grad():
        standing = shattered(images).argmax(1) == labels
    sizes = {}
    for gamma in (1.0, 60.0):
        options = {"epsilon": None, "norm": "l2", "steps": 6, "gamma": gamma}
        for model in (lin400.model, shattered):
            adversarial = hop_skip_jump(model, images, labels, **options)
            assert (model(adversarial).argmax(1) != labels).all()
            sizes[model, gamma] = distance(adversarial - images, "l2")[standing].median()
    assert sizes[shattered, 1.0] < 3 * sizes[lin400.model, 1.0]
    assert sizes[shattered, 60.0] < 1.2 * sizes[lin400.model, 60.0]


def test_a_model_that_never_changes_its_mind_leaves_images_alone(lin400):
    model = Counted(lambda images: torch.tensor([[1.0, 0.0]]).expand(len(images), 2))
    images, labels = lin400.images[:5], torch.zeros(5, dtype=torch.int64)
    for epsilon in (None, 0.1):
        model.asked = 0
        assert torch.equal(hop_skip_jump(model, images, labels, epsilon=epsilon, trials=30), images)
        assert model.asked == 5 * (1 + 30)


def test_misclassified_images_cost_one_query(lin400):
    rows = some(lin400, 8)
    model = Counted(lin400.model)
    images, labels = lin400.images[rows], (lin400.labels[rows] + 1) % 4
    assert torch.equal(hop_skip_jump(model, images, labels, epsilon=None), images)
    assert model.asked == 8


@every_norm
def test_keeps_to_its_queries(norm, lin400):
    rows = some(lin400, 4)
    images, labels = lin400.images[rows], lin400.labels[rows]
    sizes = []
    for queries in (1, 20, 200, 1500):
        model = Counted(lin400.model)
        adversarial = hop_skip_jump(
            model, images, labels, epsilon=None, norm=norm, queries=queries, directions=50
        )
        assert model.asked == 4 * queries
        sizes.append(distance(adversarial - images, norm))
    assert not sizes[0].any(), "the only query went to the clean image"
    assert (lin400.model(adversarial).argmax(1) != labels).all()
    assert (sizes[2] <= sizes[1] * 1.001).all() and (sizes[3] < sizes[2]).all()


@pytest.mark.parametrize("queries", [None, 333])
def test_batch_size_changes_nothing(queries, lin400):
    weight, bias = (parameter.detach() for parameter in lin400.model[1].parameters())
    rows = some(lin400, 5)

    def model(images):
        return (images.flatten(1)[:, None] * weight).sum(2) + bias  # rounds alike in any batch

    options = {"epsilon": None, "norm": "l2", "steps": 3, "queries": queries}
    first, second, third = (
        hop_skip_jump(model, lin400.images[rows], lin400.labels[rows], batch_size=size, **options)
        for size in (7, 60, 512)
    )
    assert torch.allclose(first, second, atol=1e-6) and torch.allclose(second, third, atol=1e-6)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.08), ("l2", 0.6)])
def test_done_with_an_image_once_it_is_within_epsilon(norm, epsilon, lin400):
    rows = some(lin400)
    images, labels = lin400.images[rows], lin400.labels[rows]
    found, asked = [], []
    for keep in ("best", "first"):
        model = Counted(lin400.model)
        adversarial = hop_skip_jump(
            model, images, labels, epsilon=epsilon, norm=norm, keep=keep, steps=8
        )
        assert (distance(adversarial - images, norm) <= epsilon * (1 + 1e-5)).all()
        found.append(lin400.model(adversarial).argmax(1) != labels)
        asked.append(model.asked)
    assert torch.equal(*found) and found[0].any()
    assert asked[1] < 0.7 * asked[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"directions": 0}, "directions must be at least 1, got 0"),
        ({"max_directions": 0}, "max_directions must be at least 1, got 0"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"gamma": 0.0}, "gamma must be above 0, got 0.0"),
        ({"keep": "first"}, "keep 'first' is done at an epsilon, got epsilon None"),
    ],
)
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        hop_skip_jump(*lin400, epsilon=None, **options)
