"""MIM by hand, on the linear problem, and what momentum, look-ahead and diversity change."""

from functools import partial

import pytest
import torch

from components.attacks.losses import margin
from components.attacks.mim import mim

START, LABEL = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])


def by_hand(model, image, label, epsilon, steps, momentum):
    """Follow algorithm 1 of the paper for one image, in double precision."""
    point, memory = image.double(), torch.zeros_like(image).double()
    for _ in range(steps):
        leaf = point.float().requires_grad_(True)
        margin(model(leaf), label).sum().backward()
        gradient = leaf.grad.double()
        memory = momentum * memory + gradient / gradient.abs().sum()
        point = point + epsilon / steps * memory.sign()
        point = torch.min(torch.max(point, image - epsilon), image + epsilon).clamp(0, 1)
    return point.float()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_algorithm_of_the_paper(momentum, network, batch):
    network.eval()
    images = batch[0]
    labels = network(images).argmax(1)
    options = {"epsilon": 0.2, "steps": 7, "momentum": momentum, "loss": "margin", "keep": "last"}
    adversarial = mim(network, images, labels, **options)
    network.requires_grad_(False)
    expected = torch.cat(
        [
            by_hand(network, images[i : i + 1], labels[i : i + 1], 0.2, 7, momentum)
            for i in range(len(images))
        ]
    )
    assert torch.isclose(adversarial, expected, atol=1e-5).double().mean() > 0.99


@pytest.mark.parametrize(
    ("loss", "epsilon", "robust"),
    [("margin", 4 / 255, 0.7050), ("margin", 8 / 255, 0.4400), ("logit_odds", 8 / 255, 0.51)],
)
def test_robust_accuracy_of_the_linear_problem(loss, epsilon, robust, lin400):
    adversarial = mim(*lin400, epsilon=epsilon, loss=loss)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)


@pytest.mark.parametrize(("norm", "epsilon", "robust"), [("l2", 0.5, 0.2475), ("l1", 2, 0.4725)])
def test_other_norms(norm, epsilon, robust, lin400):
    options = {"norm": norm, "steps": 40, "loss": "margin"}
    adversarial = mim(*lin400, epsilon=epsilon, step_size=epsilon / 5, **options)
    assert robust <= lin400.robust_accuracy(adversarial) <= robust + 0.02


def test_momentum_carries_over_a_ditch(one_pixel):
    """The margin falls between .58 and .64; who remembers the climb before goes through."""
    model = one_pixel(lambda x: x - 2 * (x - 0.58).clamp(0, 0.06) - 0.69)
    options = {"epsilon": 0.3, "steps": 12, "step_size": 0.025}
    assert mim(model, START, LABEL, momentum=0.0, **options).item() < 0.61
    assert mim(model, START, LABEL, momentum=1.0, **options).item() == pytest.approx(0.8)


def test_look_ahead_sees_the_wall_before_it_gets_there():
    """Asked at the point and where the next step leads, in turn."""
    seen = []

    def model(images):
        seen.append(images.flatten()[0].item())
        difference = images.flatten(1) - 2
        return torch.cat([torch.zeros_like(difference), difference], 1)

    options = {"epsilon": 0.3, "steps": 3, "step_size": 0.1, "momentum": 0.5, "keep": "last"}
    mim(model, START, LABEL, lookahead=True, **options)
    assert seen == pytest.approx([0.5, 0.65, 0.75])


def test_diversity_shows_the_image_shrunk_and_moved():
    images, seen = torch.ones(200, 1, 20, 20), []

    def model(pixels):
        seen.append(pixels.detach())
        return torch.stack([pixels.flatten(1).mean(1), 0 * pixels[:, 0, 0, 0]], 1)

    labels = torch.zeros(200, dtype=torch.int64)
    mim(model, images, labels, epsilon=1e-6, steps=2, diversity=0.5, keep="last")
    for shown in seen:
        areas = shown.flatten(1).mean(1)
        whole = areas > 1 - 1e-4
        assert whole.double().mean().item() == pytest.approx(0.5, abs=0.12)
        assert areas.min() >= 0.81 - 1e-2 and areas[~whole].mean().item() == pytest.approx(
            0.9033, abs=0.02
        )
        corners = shown[~whole][:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners < 0.5).any(0).all() and (corners > 0.5).any(0).all()
    assert not torch.equal(seen[0], seen[1])


def test_certain_diversity_leaves_no_image_whole_and_none_changes_nothing(lin400):
    attack = partial(mim, *lin400, epsilon=8 / 255, loss="margin", steps=4)
    assert not torch.equal(attack(diversity=1.0), attack())
    assert torch.equal(attack(diversity=0.0, seed=1), attack(seed=2))
    assert lin400.robust_accuracy(attack(diversity=1.0)) < 0.5


def test_gradient_of_any_size_or_none(lin400):
    model, images, labels = lin400
    plain = mim(model, images, labels, epsilon=0.05, loss="margin")
    flat = mim(lambda x: 0 * model(x), images, labels, epsilon=0.05)
    tiny = mim(lambda x: 2.0**-100 * model(x), images, labels, epsilon=0.05, loss="margin")
    huge = mim(lambda x: 2.0**100 * model(x), images, labels, epsilon=0.05, loss="margin")
    assert torch.equal(tiny, plain) and torch.equal(huge, plain) and torch.equal(flat, images)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"keep": "last"}, 5),
        ({}, 6),
        ({"draws": 3}, 18),
        ({"lookahead": True}, 11),
        ({"diversity": 0.5}, 11),
        ({"diversity": 0.5, "keep": "last"}, 5),
    ],
)
def test_forward_passes(options, asked, one_pixel):
    seen = []

    def model(images):
        seen.append(len(images))
        return one_pixel(lambda x: x - 2)(images)

    mim(model, START, LABEL, epsilon=0.1, steps=5, **options)
    assert len(seen) == asked


def test_first_drops_what_has_fallen(lin400):
    seen = []

    def model(images):
        seen.append(len(images))
        return lin400.model(images)

    options = {"epsilon": 8 / 255, "loss": "margin"}
    first = mim(model, lin400.images, lin400.labels, keep="first", **options)
    assert seen[0] == 400 and 176 <= seen[-1] < 220 and sorted(seen, reverse=True) == seen
    best = mim(*lin400, **options)
    assert lin400.robust_accuracy(first) == lin400.robust_accuracy(best) == pytest.approx(0.44)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"step_size": 0.0}, r"step_size must be above 0, got 0\.0"),
        ({"momentum": -1.0}, r"momentum must be at least 0 and finite, got -1\.0"),
        ({"momentum": float("nan")}, "momentum must be at least 0 and finite, got nan"),
        ({"diversity": 1.5}, r"diversity must be in \[0, 1\], got 1\.5"),
        ({"keep": "worst"}, r"keep must be one of \['best', 'first', 'last'\], got 'worst'"),
        ({"loss": "hope"}, "unknown loss 'hope'"),
    ],
)
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        mim(*lin400, epsilon=0.1, **options)
