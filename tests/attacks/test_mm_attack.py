"""The minimum-margin attack is exact where every class is tried, and frugal where not."""

import pytest
import torch

from components.attacks.apgd_targeted import apgd_targeted
from components.attacks.mm_attack import mm_attack


@pytest.mark.parametrize(
    ("norm", "epsilon", "robust"),
    [("linf", 4 / 255, 0.7050), ("linf", 8 / 255, 0.4400), ("l2", 0.25, 0.6), ("l2", 0.5, 0.2475)],
)
def test_exact_on_the_linear_problem(norm, epsilon, robust, lin400):
    adversarial = mm_attack(*lin400, epsilon=epsilon, norm=norm)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)


def test_towards_the_runner_up_alone_it_is_what_that_class_allows(lin400):
    """Climbing to one class may pass through another, so the known number is an upper bound."""
    model, images, labels = lin400
    epsilon = 8 / 255
    weights, pixels = model[1].weight.detach(), images.flatten(1)
    with torch.no_grad():
        logits = model(images)
    second = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    lead = weights[second] - weights[labels]
    low, high = (-pixels).clamp_min(-epsilon), (1 - pixels).clamp_max(epsilon)
    reach = torch.maximum(lead * low, lead * high).sum(1)
    clean = (logits.gather(1, second[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    bound = (clean + reach < 0).double().mean().item()
    one, three = (
        lin400.robust_accuracy(mm_attack(*lin400, epsilon=epsilon, targets=targets))
        for targets in (1, 3)
    )
    assert pytest.approx(three) == 0.44 and three <= one <= bound


def test_asks_the_model_once_for_the_ranks_and_once_a_step(lin400):
    asked = []

    def model(images):
        asked.append(len(images))
        return lin400.model(images)

    images = lin400.images[:5]
    labels = lin400.model(images).argmax(1)
    mm_attack(model, images, labels, epsilon=1e-6)
    assert asked == [5] + [15] * 21
    asked.clear()
    mm_attack(model, images, labels, epsilon=1e-6, targets=9, steps=4, batch_size=10)
    assert asked == [5] + [10] * 5 + [5] * 5


def test_is_targeted_apgd_on_the_margin(lin400):
    options = {"epsilon": 0.02, "steps": 7, "targets": 2, "seed": 5}
    expected = apgd_targeted(*lin400, loss="margin", **options)
    assert torch.equal(mm_attack(*lin400, **options), expected)
