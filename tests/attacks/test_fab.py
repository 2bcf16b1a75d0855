"""FAB against problems whose nearest adversarial images are known, and its queue of searches."""

from functools import partial

import pytest
import torch

from components.attacks.fab import fab
from components.attacks.geometry import NORMS, distance
from components.attacks.losses import margin
from components.attacks.planes import nearest_on_plane

every_norm = pytest.mark.parametrize("norm", NORMS)
NO_LIMIT = {"epsilon": None}
MEDIANS = {"linf": 0.031812, "l2": 0.347170, "l1": 2.124804}


def fooled(model, images, labels):
    return model(images).argmax(1) != labels


@pytest.fixture(scope="module")
def by_rows(lin400):
    """The linear model summed image by image, which rounds alike in any batch."""
    weight, bias = (parameter.detach() for parameter in lin400.model[1].parameters())
    return lambda images: (images.flatten(1)[:, None] * weight).sum(2) + bias


def exact_distances(problem, norm):
    weights, logits = problem.model[1].weight.detach(), problem.model(problem.images).detach()
    nearest = torch.full((400,), torch.inf)
    for k in range(4):
        normals = (weights[k] - weights[problem.labels]).view(400, 3, 8, 8)
        gaps = logits.gather(1, problem.labels[:, None]).squeeze(1) - logits[:, k]
        far = distance(nearest_on_plane(normals, gaps, problem.images, norm), norm)
        nearest = torch.where(problem.labels == k, nearest, torch.minimum(nearest, far))
    return nearest


@pytest.mark.parametrize(
    ("norm", "epsilon", "exact", "published"),
    [
        ("linf", 4 / 255, 0.7050, 0.7050),
        ("linf", 8 / 255, 0.4400, 0.4450),
        ("l2", 0.25, 0.6000, 0.6025),
        ("l2", 0.5, 0.2475, 0.2475),
        ("l1", 2, 0.4725, 0.4725),
    ],
)
def test_published_robust_accuracy(norm, epsilon, exact, published, lin400):
    adversarial = fab(*lin400, epsilon=epsilon, norm=norm, steps=15, keep="first", batch_size=800)
    assert exact <= lin400.robust_accuracy(adversarial) <= published
    sizes = distance(adversarial - lin400.images, norm)
    assert sizes.max() <= epsilon * (1 + 1e-5)


@every_norm
@pytest.mark.parametrize("targets", [9, None])
def test_smallest_distances_of_a_linear_model(targets, norm, lin400):
    options = {"norm": norm, "steps": 15, "targets": targets, "batch_size": 1200}
    adversarial = fab(*lin400, **NO_LIMIT, **options)
    right = ~fooled(lin400.model, lin400.images, lin400.labels)
    assert right.sum() == 343 and lin400.robust_accuracy(adversarial) == 0
    distances = distance(adversarial - lin400.images, norm)[right]
    assert (distances >= exact_distances(lin400, norm)[right] * (1 - 1e-5) - 1e-6).all()
    assert MEDIANS[norm] <= distances.median().item() <= 1.02 * MEDIANS[norm]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_smallest_distance_from_a_sphere(norm, sphere):
    model, images, labels, distances = sphere
    adversarial = fab(model, images, labels, **NO_LIMIT, norm=norm)
    assert fooled(model, adversarial, labels).all()
    ratios = distance(adversarial - images, norm) / distances[norm]
    assert ratios.min() >= 1 - 1e-5 and ratios.max() <= 1.01


@every_norm
@pytest.mark.parametrize("options", [{}, {"keep": "first"}, {"targets": None, "restarts": 2}])
def test_results_do_not_depend_on_the_company(options, norm, lin400, by_rows):
    images, labels, seeds = lin400.images[:8], lin400.labels[:8], torch.arange(50, 58)
    epsilon = {"linf": 8 / 255, "l2": 0.5, "l1": 3.0}[norm]
    attack = partial(fab, by_rows, epsilon=epsilon, norm=norm, steps=4, **options)
    together = attack(images, labels, seed=seeds)
    for batch_size in (1, 5):
        assert torch.equal(attack(images, labels, seed=seeds, batch_size=batch_size), together)
    some = torch.tensor([7, 2, 6])
    assert torch.equal(attack(images[some], labels[some], seed=seeds[some]), together[some])


def test_first_takes_the_earliest_target_that_succeeds(lin400, by_rows):
    """What other targets find meanwhile does not count, however soon they find it."""
    epsilon = 16 / 255
    attack = partial(fab, by_rows, lin400.images, lin400.labels, epsilon=epsilon, keep="first")
    one, two, three = (attack(targets=targets, steps=10) for targets in (1, 2, 3))
    # By more than rounding, or the search goes on for a better one.
    done, done_by_two = (margin(by_rows(images), lin400.labels) > 1e-3 for images in (one, two))
    assert torch.equal(two[done], one[done]) and torch.equal(three[done], two[done])
    assert torch.equal(three[done_by_two], two[done_by_two])
    assert (done_by_two & ~done).any()


def test_best_is_nearer_than_first(lin400):
    attack = partial(fab, *lin400, epsilon=16 / 255, steps=10, targets=2)
    first, best = attack(keep="first"), attack(keep="best")
    success = fooled(lin400.model, first, lin400.labels)
    sizes = [distance(image - lin400.images, "linf")[success] for image in (best, first)]
    assert (sizes[0] <= sizes[1]).all() and (sizes[0] < 0.99 * sizes[1]).any()


def watched(problem):
    seen = []

    def model(images):
        seen.append(images)
        return problem.model(images)

    return model, seen


def test_batches_are_full_and_no_step_asks_twice(lin400):
    """343 right images, 2 targets, 4 steps and a last look: 3430 looks, 100 at a time."""
    model, seen = watched(lin400)
    fab(model, *lin400[1:], **NO_LIMIT, steps=4, targets=2, batch_size=100)
    assert [len(images) for images in seen[:4]] == [100] * 4
    sizes = [len(images) for images in seen[4:]]
    assert sum(sizes) == 343 * 2 * 5
    assert sizes == [100] * 30 + [86] * 5


def test_first_leaves_images_that_are_done(lin400):
    model, seen = watched(lin400)
    done = fab(model, *lin400[1:], epsilon=16 / 255, steps=10, keep="first", batch_size=1200)
    sizes = [len(images) for images in seen[1:]]
    assert sizes == sorted(sizes, reverse=True)
    standing = int((~fooled(lin400.model, done, lin400.labels)).sum())
    assert sizes[0] == 3 * 343 and 3 * standing <= sizes[-1] < 343


def test_a_restart_begins_within_half_the_distance_found(one_pixel):
    seen = []

    def model(images):
        seen.append(images.item())
        return one_pixel(lambda x: x - 0.7)(images)

    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    for seed in range(20):
        found = fab(model, image, label, **NO_LIMIT, steps=3, restarts=2, seed=seed)
        assert found.item() == pytest.approx(0.7, abs=0.02)
    starts = torch.tensor(seen).view(20, 9)[:, 5] - 0.5  # after a first look and 4 of a search
    assert starts.abs().max() <= 0.105 and starts.abs().max() > 0.08 and starts.min() < -0.05
    seen.clear()
    fab(model, image, label, epsilon=0.01, steps=3, restarts=2)
    assert abs(seen[5] - 0.5) <= 0.005


def test_restarts_never_lose_what_was_found(sphere):
    attack = partial(fab, *sphere[:3], **NO_LIMIT, norm="l1", steps=3)
    once, thrice = (
        distance(attack(restarts=restarts) - sphere.images, "l1") for restarts in (1, 3)
    )
    assert (thrice <= once).all() and (thrice < once).any()


def test_an_epsilon_shrinks_what_lies_outside(lin400):
    nearest, adversarial = (
        fab(*lin400, epsilon=epsilon, norm="l2", steps=4) for epsilon in (None, 0.3)
    )
    sizes = distance(nearest - lin400.images, "l2")
    shrunk = distance(adversarial - lin400.images, "l2")
    assert torch.equal(adversarial[sizes <= 0.3], nearest[sizes <= 0.3])
    assert torch.allclose(shrunk[sizes > 0.3], torch.tensor(0.3), rtol=1e-5)


def test_first_shrinks_the_nearest_where_none_is_inside(lin400):
    """Which is what every other search of the image has come to."""
    first, best = (fab(*lin400, epsilon=0.01, steps=5, keep=keep) for keep in ("first", "best"))
    outside = ~fooled(lin400.model, first, lin400.labels)
    assert outside.any() and torch.allclose(first[outside], best[outside], atol=1e-6)
    assert (distance(first - lin400.images, "linf")[outside] >= 0.01 - 1e-6).all()


@every_norm
def test_clean_images_where_nothing_is_found_or_to_be_found(norm, lin400):
    wrong = fooled(lin400.model, lin400.images, lin400.labels)
    adversarial = fab(*lin400, **NO_LIMIT, norm=norm, steps=1)
    assert torch.equal(adversarial[wrong], lin400.images[wrong])
    model = lambda images: lin400.model(0.001 * images)  # noqa: E731  always the same class
    labels = model(lin400.images).argmax(1)
    assert len(labels.unique()) == 1
    found = fab(model, lin400.images, labels, **NO_LIMIT, norm=norm, steps=3)
    assert torch.equal(found, lin400.images)


def test_a_model_without_slope_stays_standing(one_pixel):
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    model = one_pixel(lambda x: 0 * x - 1)
    assert torch.equal(fab(model, image, label, **NO_LIMIT, steps=3, restarts=2), image)


def test_targets_are_no_more_than_the_other_classes(lin400):
    three, nine = (fab(*lin400, **NO_LIMIT, steps=2, targets=targets) for targets in (3, 9))
    assert torch.equal(three, nine)


def test_targets_are_those_the_model_ranks_first(tiny):
    """Class 2 is next by its logit, and nearer than class 1 as well."""
    model, image, label = tiny([0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2])
    found = fab(model, image, label, **NO_LIMIT, norm="l1", targets=1)
    assert model(found).argmax() == 2
    assert distance(found - image, "l1").item() == pytest.approx(0.333333, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"targets": 0}, "targets must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"step_max": 0.0}, r"step_max must be in \(0, 1\], got 0"),
        ({"step_max": 1.1}, r"step_max must be in \(0, 1\], got 1.1"),
        ({"backward": float("nan")}, r"backward must be in \(0, 1\], got nan"),
        ({"overshoot": 0.9}, "overshoot must be at least 1, got 0.9"),
        ({"keep": "last"}, r"keep must be one of \['best', 'first'\], got 'last'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        fab(*lin400, **NO_LIMIT, **options)


@pytest.mark.parametrize("targets", [9, None])
def test_model_without_gradient_is_refused(targets, lin400):
    with pytest.raises(ValueError, match="attack it through its honest view"):
        fab(lambda x: lin400.model(x.detach()), *lin400[1:], **NO_LIMIT, targets=targets)
