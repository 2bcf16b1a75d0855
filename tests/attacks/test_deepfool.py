"""DeepFool: one step to the boundary of a linear model, more where boundaries are curved."""

import pytest
import torch

from components.attacks.deepfool import deepfool
from components.attacks.geometry import distance
from components.attacks.planes import nearest_on_plane

every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])
NO_LIMIT = {"epsilon": None}


def fooled(model, images, labels):
    return model(images).argmax(1) != labels


def exact_distances(problem, norm, *, boxed):
    """Distance of each image from the nearest boundary of the linear problem."""
    weights = problem.model[1].weight.detach()
    logits = problem.model(problem.images).detach()
    nearest = torch.full((400,), torch.inf)
    for k in range(4):
        normals = (weights[k] - weights[problem.labels]).view(400, 3, 8, 8)
        gaps = logits.gather(1, problem.labels[:, None]).squeeze(1) - logits[:, k]
        if boxed:
            far = distance(nearest_on_plane(normals, gaps, problem.images, norm), norm)
        else:
            far = gaps / distance(normals, {"linf": "l1", "l2": "l2"}[norm]).clamp_min(1e-30)
        nearest = torch.where(problem.labels == k, nearest, torch.minimum(nearest, far))
    return nearest


@pytest.mark.parametrize(("norm", "median"), [("linf", 0.031812), ("l2", 0.347170)])
def test_exact_on_a_linear_model_in_one_step(norm, median, lin400):
    adversarial = deepfool(*lin400, **NO_LIMIT, norm=norm, steps=1)
    right = ~fooled(lin400.model, lin400.images, lin400.labels)
    assert right.sum() == 343 and lin400.robust_accuracy(adversarial) == 0
    distances = distance(adversarial - lin400.images, norm)[right]
    ratios = distances / exact_distances(lin400, norm, boxed=True)[right]
    assert ratios.min() >= 1 - 1e-5 and ratios.max() <= 1.02 + 5e-4
    assert distances.median().item() == pytest.approx(1.02 * median, rel=1e-3)


@pytest.mark.parametrize(("norm", "median"), [("linf", 0.029797), ("l2", 0.338637)])
def test_without_walls_it_overshoots_by_two_percent(norm, median, lin400):
    """The same images a tenth as large and far from the walls, seen through a magnifier."""

    def model(images):
        return lin400.model(10 * (images - 0.45))

    small = lin400.images / 10 + 0.45
    adversarial = deepfool(model, small, lin400.labels, **NO_LIMIT, norm=norm, steps=1)
    right = ~fooled(lin400.model, lin400.images, lin400.labels)
    distances = 10 * distance(adversarial - small, norm)[right]
    expected = 1.02 * exact_distances(lin400, norm, boxed=False)[right]
    assert torch.allclose(distances, expected, rtol=1e-3, atol=1e-5)
    assert distances.median().item() == pytest.approx(1.02 * median, rel=1e-3)


@every_norm
def test_a_curved_boundary_takes_several_steps(norm, sphere):
    model, images, labels, distances = sphere
    one = deepfool(model, images, labels, **NO_LIMIT, norm=norm, steps=1)
    many = deepfool(model, images, labels, **NO_LIMIT, norm=norm)
    assert not fooled(model, one, labels).all() and fooled(model, many, labels).all()
    ratios = distance(many - images, norm) / distances[norm]
    assert ratios.min() >= 1 - 1e-5
    assert ratios.median() <= 1.05


@every_norm
def test_images_without_success_and_those_wrong_already_stay_clean(norm, sphere):
    model, images, labels, _ = sphere
    one = deepfool(model, images, labels, **NO_LIMIT, norm=norm, steps=1)
    standing = ~fooled(model, one, labels)
    assert torch.equal(one[standing], images[standing])
    assert torch.equal(deepfool(model, images, 1 - labels, **NO_LIMIT, norm=norm), images)


@every_norm
def test_an_epsilon_shrinks_what_lies_outside(norm, lin400):
    nearest = deepfool(*lin400, **NO_LIMIT, norm=norm)
    sizes = distance(nearest - lin400.images, norm)
    epsilon = sizes.median().item()
    adversarial = deepfool(*lin400, epsilon=epsilon, norm=norm)
    shrunk = distance(adversarial - lin400.images, norm)
    assert torch.equal(adversarial[sizes <= epsilon], nearest[sizes <= epsilon])
    assert torch.allclose(shrunk[sizes > epsilon], torch.tensor(epsilon), rtol=1e-5)


def test_overshoot_is_what_is_added(lin400):
    near, far = (
        deepfool(*lin400, **NO_LIMIT, norm="l2", steps=1, overshoot=overshoot)
        for overshoot in (0.02, 0.5)
    )
    box = ((far > 0) & (far < 1)).flatten(1).all(1)
    changes = [distance(image - lin400.images, "l2")[box] for image in (near, far)]
    assert torch.allclose(changes[1] * 1.02, changes[0] * 1.5, rtol=1e-4)


def test_only_candidates_are_tried(one_pixel):
    """A third class is nearest but ranks last: its logit rises steeply from far below."""

    def model(images):
        pixel = images.flatten(1)
        return torch.cat([0 * pixel, pixel - 0.9, 100 * (pixel - 0.6)], 1)

    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    two, three = (deepfool(model, image, label, **NO_LIMIT, candidates=n) for n in (2, 3))
    assert three.item() == pytest.approx(0.5 + 0.1 * 1.02, abs=1e-6)
    assert two.item() == pytest.approx(0.5 + 0.4 * 1.02, abs=1e-6)


@pytest.mark.parametrize("candidates", [2, 10])
def test_forward_passes_are_of_images_that_stand(candidates, sphere):
    seen = []

    def model(images):
        seen.append(len(images))
        return sphere.model(images)

    deepfool(model, sphere.images, sphere.labels, **NO_LIMIT, norm="l2", candidates=candidates)
    assert seen[:2] == [24, 24] and seen == sorted(seen, reverse=True) and min(seen) > 0
    assert len(seen) > 3


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"candidates": 1}, {"overshoot": -0.1}, {"overshoot": float("nan")}]
)
def test_wrong_options(options, lin400):
    with pytest.raises(ValueError, match="steps must be at least 1, candidates at least 2"):
        deepfool(*lin400, **NO_LIMIT, **options)


def test_model_without_gradient_is_refused(lin400):
    with pytest.raises(ValueError, match="attack it through its honest view"):
        deepfool(lambda x: lin400.model(x.detach()), *lin400[1:], **NO_LIMIT)
