"""The fast minimum-norm attack against models whose nearest adversarial image is known."""

from functools import partial

import pytest
import torch

from components.attacks.fast_minimum_norm import fmn
from components.attacks.geometry import distance
from components.attacks.losses import margin

NORMS = ("linf", "l2", "l1")
MEDIANS = {"linf": 0.031812, "l2": 0.347170, "l1": 2.124804}
MEANS = {"linf": 0.034740, "l2": 0.377683, "l1": 2.343644}
FREE = [0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2]
BOX_ACTIVE = [1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2]
nearest = partial(fmn, epsilon=None)


@pytest.mark.parametrize(
    ("case", "norm", "exact"),
    [
        (FREE, "linf", 0.166667),
        (FREE, "l2", 0.282843),
        (FREE, "l1", 0.333333),
        (BOX_ACTIVE, "linf", 0.46),
        (BOX_ACTIVE, "l2", 0.653394),
        (BOX_ACTIVE, "l1", 0.9),
    ],
)
def test_exact_distance(case, norm, exact, tiny):
    model, image, label = tiny(*case)
    adversarial = nearest(model, image, label, norm=norm)
    assert margin(model(adversarial), label) > 0
    size = distance(adversarial - image, norm).item()
    assert exact * (1 - 1e-5) < size < exact * 1.01


@pytest.mark.parametrize("norm", NORMS)
def test_distances_of_the_linear_problem(norm, lin400):
    model, images, labels = lin400
    right = model(images).argmax(1) == labels
    adversarial = nearest(model, images, labels, norm=norm)
    assert (margin(model(adversarial), labels) > 0).all()
    sizes = distance(adversarial - images, norm)[right]
    assert MEDIANS[norm] * (1 - 1e-4) < sizes.median().item() < MEDIANS[norm] * 1.005
    assert MEANS[norm] * (1 - 1e-4) < sizes.mean().item() < MEANS[norm] * 1.01


@pytest.mark.parametrize(
    ("norm", "curve"),
    [
        ("linf", {2 / 255: 0.7850, 4 / 255: 0.7050, 8 / 255: 0.4400, 16 / 255: 0.0950}),
        ("l2", {0.1: 0.7675, 0.25: 0.6000, 0.5: 0.2475, 1.0: 0.0075}),
        ("l1", {0.5: 0.7850, 1.0: 0.7025, 2.0: 0.4725, 4.0: 0.1300, 8.0: 0.0}),
    ],
)
def test_one_run_gives_the_whole_curve(norm, curve, lin400):
    """Never below the exact robust accuracy, and above it by at most four images in 400."""
    adversarial = nearest(*lin400, norm=norm)
    right = lin400.model(lin400.images).argmax(1) == lin400.labels
    sizes = distance(adversarial - lin400.images, norm)
    for epsilon, exact in curve.items():
        left = float((right & (sizes > epsilon)).double().mean())
        assert exact <= left <= exact + 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_of_a_curved_boundary(norm, sphere):
    model, images, labels, exact = sphere
    adversarial = nearest(model, images, labels, norm=norm)
    assert (margin(model(adversarial), labels) > 0).all()
    ratio = distance(adversarial - images, norm) / exact[norm]
    assert ratio.min() > 1 - 1e-4 and ratio.median() < 1.005 and ratio.max() < 1.03


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, -64.0), (64.0, 0.0), (1e-6, 0.0)])
def test_logits_below_zero_and_of_any_scale(scale, shift, norm, lin400):
    images, labels = lin400.images[:20], lin400.labels[:20]
    attack = partial(nearest, images=images, labels=labels, norm=norm, steps=50)
    plain, changed = attack(lin400.model), attack(lambda x: scale * lin400.model(x) + shift)
    sizes = [distance(found - images, norm).mean().item() for found in (plain, changed)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_a_tie_at_the_clean_image_is_left_behind(one_pixel):
    model = one_pixel(lambda x: x - 0.5)
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    adversarial = nearest(model, image, label)
    assert margin(model(adversarial), label) > 0 and adversarial.item() < 0.51


@pytest.mark.parametrize("norm", NORMS)
def test_what_cannot_be_fooled_stays_clean(norm, tiny):
    model, image, label = tiny([50.0, 0.0, 0.0], [0.6, 0.3, 0.5, 0.2])
    for epsilon in (None, 0.5):
        assert torch.equal(fmn(model, image, label, epsilon=epsilon, norm=norm), image)


def test_what_is_misclassified_already_stays_clean(tiny):
    model, image, _ = tiny(*FREE)
    assert torch.equal(nearest(model, image, torch.tensor([1])), image)


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_come_nearer(norm, lin400):
    images, labels = lin400.images, lin400.labels
    few, many = (
        distance(nearest(lin400.model, images, labels, norm=norm, steps=steps) - images, norm)
        for steps in (15, 60)
    )
    both = (few > 0) & (many > 0)
    assert many[both].mean() < few[both].mean() and (many > 0).sum() >= (few > 0).sum()


def test_steps_are_gradients(lin400):
    right = lin400.model(lin400.images).argmax(1) == lin400.labels
    asked = []

    def watched(images):
        asked.append(len(images))
        return lin400.model(images)

    fmn(watched, lin400.images, lin400.labels, epsilon=None, steps=5)
    assert asked == [400] + [int(right.sum())] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps must be at least 2 and draws at least 1, got 1 and 1"),
        ({"draws": 0}, "steps must be at least 2 and draws at least 1, got 100 and 0"),
        ({"step_size": 0.0}, r"step_size must be above 0 and gamma in \(0, 1\), got 0.0 and 0.3"),
        ({"gamma": 1.0}, r"gamma in \(0, 1\), got 1.0 and 1.0"),
    ],
)
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        fmn(*lin400, epsilon=None, **options)
