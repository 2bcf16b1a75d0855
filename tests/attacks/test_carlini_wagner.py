"""Carlini and Wagner's attack against models whose nearest adversarial image is known."""

from functools import partial

import pytest
import torch
from torch import nn

from components.attacks.carlini_wagner import carlini_wagner
from components.attacks.geometry import distance
from components.attacks.losses import margin

THOROUGH = {"steps": 300, "search_steps": 6, "step_size": 0.05, "constant": 1.0}
nearest = partial(carlini_wagner, epsilon=None, **THOROUGH)
BOX_ACTIVE = [1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2]
FREE = [0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2]


def sizes(adversarial, images):
    return distance(adversarial - images, "l2")


@pytest.mark.parametrize(("case", "exact"), [(FREE, 0.282843), (BOX_ACTIVE, 0.653394)])
def test_exact_distance(case, exact, tiny):
    model, image, label = tiny(*case)
    adversarial = nearest(model, image, label)
    assert margin(model(adversarial), label) > 0
    size = sizes(adversarial, image).item()
    assert exact * (1 - 1e-5) < size < exact * 1.01


def test_exact_image(tiny):
    model, image, label = tiny(*BOX_ACTIVE)
    perturbation = nearest(model, image, label) - image
    expected = [-0.1, 0.530769, 0.1, 0.353846]
    assert perturbation.flatten().tolist() == pytest.approx(expected, abs=0.02)


def test_distances_of_the_linear_problem(lin400):
    model, images, labels = lin400
    right = model(images).argmax(1) == labels
    adversarial = nearest(model, images, labels)
    assert torch.equal(margin(model(adversarial), labels) > 0, torch.ones(400, dtype=torch.bool))
    median = sizes(adversarial, images)[right].median().item()
    assert 0.347170 * (1 - 1e-4) < median < 0.347170 * 1.02


def test_distances_of_a_curved_boundary(sphere):
    model, images, labels, exact = sphere
    adversarial = nearest(model, images, labels)
    assert (margin(model(adversarial), labels) > 0).all()
    ratio = sizes(adversarial, images) / exact["l2"]
    assert ratio.min() > 1 - 1e-4 and ratio.max() < 1.02


def test_logits_below_zero(tiny):
    """No class may win with the 0 that a mask leaves behind."""
    model, image, label = tiny(*FREE)
    plain = nearest(model, image, label)
    lowered = nearest(lambda x: model(x) - 50, image, label)
    assert sizes(lowered, image).item() == pytest.approx(sizes(plain, image).item(), rel=1e-2)


def test_pixels_on_the_walls_move():
    """Class 1 wins where a black pixel has come up and a white one down by 0.3 together."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    layer.bias.data = torch.tensor([0.0, 0.7])
    image, label = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.tensor([0])
    model = nn.Sequential(nn.Flatten(), layer)
    adversarial = nearest(model, image, label, steps=1000, search_steps=4)
    assert margin(model(adversarial), label) > 0
    moved = (adversarial - image).flatten().tolist()
    assert moved == pytest.approx([0.15, -0.15], abs=0.02)


def test_what_cannot_be_fooled_stays_clean(tiny):
    model, image, label = tiny([50.0, 0.0, 0.0], [0.6, 0.3, 0.5, 0.2])
    for epsilon in (None, 0.5):
        assert torch.equal(nearest(model, image, label, epsilon=epsilon, steps=30), image)


def test_what_is_misclassified_already_stays_clean(tiny):
    model, image, _ = tiny(*FREE)
    assert torch.equal(nearest(model, image, torch.tensor([1])), image)


def test_nothing_is_kept_that_was_not_classified_as_it_is_kept(lin400):
    """Every adversarial image is, bit by bit, one that the model was asked about and got wrong."""
    asked = []

    def watched(images):
        asked.append(images.detach().clone())
        return lin400.model(images)

    images, labels = lin400.images[:6], lin400.labels[:6]
    adversarial = carlini_wagner(watched, images, labels, epsilon=None, **{**THOROUGH, "steps": 30})
    seen = torch.cat(asked)
    assert all((seen == image).flatten(1).all(1).any() for image in adversarial)


def test_an_image_goes_its_own_way(lin400):
    """Stalling together with hard images, or alone, gives the same image."""
    weight, bias = (parameter.detach() for parameter in lin400.model[1].parameters())

    def model(images):
        return (images.flatten(1)[:, None] * weight).sum(2) + bias

    images, labels = lin400.images[:4], lin400.labels[:4]
    attack = partial(carlini_wagner, model, epsilon=None, steps=50, search_steps=6)
    together = attack(images, labels)
    alone = [attack(images[i : i + 1], labels[i : i + 1]) for i in range(4)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)


def test_confidence(lin400):
    images, labels = lin400.images[:20], lin400.labels[:20]
    right = lin400.model(images).argmax(1) == labels
    unsure, sure = (
        nearest(lin400.model, images, labels, confidence=confidence, steps=100)
        for confidence in (0.0, 0.5)
    )
    assert margin(lin400.model(sure), labels)[right].min() > 0.5
    assert margin(lin400.model(unsure), labels)[right].max() < 0.05
    assert (sizes(sure, images) > sizes(unsure, images))[right].all()


def test_epsilon_shrinks_what_is_further_away(lin400):
    images, labels = lin400.images[:60], lin400.labels[:60]
    free, held = (
        nearest(lin400.model, images, labels, epsilon=epsilon, steps=100) for epsilon in (None, 0.4)
    )
    far = sizes(free, images) > 0.4
    assert far.any() and not far.all()
    assert torch.equal(held[~far], free[~far])
    direction = (free - images)[far] / sizes(free, images)[far].view(-1, 1, 1, 1)
    assert torch.allclose((held - images)[far], 0.4 * direction, atol=1e-5)
    assert (margin(lin400.model(held[far]), labels[far]) < 0).all()


def test_what_stalls_is_given_up(lin400):
    """Constants too small to fool are not followed to the end, nor does that change the result."""
    asked = []

    def watched(images):
        asked.append(len(images))
        return lin400.model(images)

    found, work = [], []
    for abort_early in (True, False):
        asked.clear()
        found.append(
            carlini_wagner(
                watched,
                lin400.images[:40],
                lin400.labels[:40],
                epsilon=None,
                steps=100,
                abort_early=abort_early,
                step_size=0.05,
            )
        )
        work.append(sum(asked))
    right = int((lin400.model(lin400.images[:40]).argmax(1) == lin400.labels[:40]).sum())
    assert work[1] == 40 + right * (9 * 100 + 9)
    assert work[0] < 0.8 * work[1]
    early, late = (sizes(adversarial, lin400.images[:40]).mean() for adversarial in found)
    assert early < 1.03 * late


def test_adam_takes_the_paper_s_steps(lin400):
    """The same points as Adam on the paper's loss of the paper's variable."""
    asked = []

    def watched(images):
        asked.append(images.detach().clone())
        return lin400.model(images)

    right = lin400.model(lin400.images).argmax(1) == lin400.labels
    images, labels = lin400.images[right][:5], lin400.labels[right][:5]
    options = {"steps": 20, "search_steps": 1, "constant": 2.0, "step_size": 0.03}
    carlini_wagner(watched, images, labels, epsilon=None, abort_early=False, **options)
    start = torch.atanh((2 * images - 1) * 0.999999)
    variable, mean, square = start.clone(), 0.0, 0.0
    for age, points in enumerate(asked[1:21], start=1):
        variable = variable.detach().requires_grad_(True)
        attacked = (torch.tanh(variable) + 1) / 2
        missing = (-margin(lin400.model(attacked), labels)).clamp_min(0)
        length = (attacked - (torch.tanh(start) + 1) / 2).square().flatten(1).sum(1)
        (slope,) = torch.autograd.grad((length + 2.0 * missing).sum(), variable)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        width = (square / (1 - 0.999**age)).sqrt() + 1e-8
        variable = variable - 0.03 * mean / (1 - 0.9**age) / width
        assert torch.allclose((torch.tanh(variable) + 1) / 2, points, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps, search_steps and draws must be at least 1, got 0, 9 and 1"),
        ({"search_steps": 0}, "must be at least 1, got 10000, 0 and 1"),
        ({"draws": 0}, "must be at least 1, got 10000, 9 and 0"),
        ({"step_size": 0.0}, "step_size and constant must be above 0 .*, got 0.0, 0.001 and 0.0"),
        ({"constant": -1.0}, "step_size and constant must be above 0"),
        ({"confidence": -1.0}, "confidence at least 0, got 0.01, 0.001 and -1.0"),
    ],
)
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        carlini_wagner(*lin400, epsilon=None, **options)
