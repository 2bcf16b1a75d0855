"""BIM: the paper's number of steps, and where signed steps from the clean image lead."""

import pytest
import torch

from components.attacks.bim import bim
from components.attacks.mim import mim
from components.attacks.pgd import pgd


def passes(lin400, **options):
    """How often the model is asked, the last point included."""
    seen = []

    def model(images):
        seen.append(len(images))
        return lin400.model(images)

    bim(model, lin400.images[:2], lin400.labels[:2], **options)
    return len(seen) - 1


@pytest.mark.parametrize(("levels", "steps"), [(0.5, 1), (1, 2), (2, 3), (4, 5), (8, 10), (16, 20)])
def test_steps_of_the_paper(levels, steps, lin400):
    assert passes(lin400, epsilon=levels / 255) == steps


def test_far_away_the_paper_takes_four_more_steps_than_the_shortest_way(lin400):
    assert passes(lin400, epsilon=0.3) == 81  # 76.5 levels
    assert passes(lin400, epsilon=torch.tensor([0.1, 0.3])) == 81
    assert passes(lin400, epsilon=0.3, steps=3) == 3
    assert passes(lin400, epsilon=0.5, norm="l2") == 10


def test_a_step_of_the_paper_is_one_level(lin400):
    model, images, labels = lin400
    middle = images * 0.5 + 0.25
    by_level = bim(model, middle, labels, epsilon=8 / 255, loss="margin", keep="last")
    by_hand = bim(model, middle, labels, epsilon=8 / 255, loss="margin", keep="last", steps=10)
    first = pgd(
        model,
        middle,
        labels,
        epsilon=8 / 255,
        loss="margin",
        keep="last",
        start="clean",
        steps=10,
        step_size=1 / 255,
    )
    assert torch.equal(by_level, first)
    short = bim(model, middle, labels, epsilon=8 / 255, loss="margin", keep="last", steps=1)
    assert torch.allclose((short - middle).abs(), torch.tensor(8 / 255), atol=1e-6)
    assert torch.allclose(
        (by_hand - middle).abs().amax((1, 2, 3)), torch.tensor(8 / 255), atol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "epsilon", "robust"),
    [
        ("margin", 4 / 255, 0.7050),
        ("margin", 8 / 255, 0.4400),
        ("logit_odds", 4 / 255, 0.7275),
        ("logit_odds", 8 / 255, 0.5100),
        ("cross_entropy", 8 / 255, 0.5100),
    ],
)
def test_robust_accuracy_of_the_linear_problem(loss, epsilon, robust, lin400):
    adversarial = bim(*lin400, epsilon=epsilon, loss=loss)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.5), ("l1", 2.0)])
def test_it_is_momentum_without_memory(norm, epsilon, lin400):
    options = {"epsilon": epsilon, "norm": norm, "loss": "margin", "steps": 6}
    assert torch.equal(bim(*lin400, **options), mim(*lin400, momentum=0.0, **options))


def test_wrong_options(lin400):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        bim(*lin400, epsilon=0.1, steps=0)
