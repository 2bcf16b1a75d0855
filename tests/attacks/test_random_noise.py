"""Random noise: corners of the ball, the worst of its draws, and no gradient."""

import pytest
import torch

from components.attacks.fgsm import fgsm
from components.attacks.losses import margin
from components.attacks.random_noise import random_noise


def margins(problem, adversarial):
    with torch.no_grad():
        return margin(problem.model(adversarial), problem.labels)


def test_linf_draws_are_corners_of_ball_and_box(lin400):
    adversarial = random_noise(*lin400, epsilon=0.1, trials=1)
    low, high = (lin400.images - 0.1).clamp_min(0), (lin400.images + 0.1).clamp_max(1)
    at_low, at_high = torch.isclose(adversarial, low), torch.isclose(adversarial, high)
    assert (at_low | at_high).all()
    inner = (lin400.images > 0.1) & (lin400.images < 0.9)
    assert at_high[inner].double().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.5)])
def test_more_draws_never_leave_a_smaller_margin(norm, epsilon, lin400):
    few, more, many = (
        margins(lin400, random_noise(*lin400, epsilon=epsilon, norm=norm, trials=trials))
        for trials in (1, 5, 25)
    )
    assert (few <= more).all() and (more <= many).all() and (few < many).any()


def test_it_is_the_worst_of_the_draws_it_made(lin400):
    """The same draws, one seed after another stream: no other of them has a larger margin."""
    drawn = []

    def watched(images):
        drawn.append(images)
        return lin400.model(images)

    kept = random_noise(watched, lin400.images, lin400.labels, epsilon=0.05, trials=4)
    worst = torch.stack([margins(lin400, images) for images in drawn]).amax(0)
    assert len(drawn) == 4 and torch.equal(margins(lin400, kept), worst)


def test_weaker_than_a_step_along_the_gradient(lin400):
    noise = lin400.robust_accuracy(random_noise(*lin400, epsilon=8 / 255))
    step = lin400.robust_accuracy(fgsm(*lin400, epsilon=8 / 255))
    assert step + 0.2 < noise < lin400.robust_accuracy(lin400.images)


def test_needs_no_gradient(lin400):
    def labels_only(images):
        assert not torch.is_grad_enabled()
        return torch.nn.functional.one_hot(lin400.model(images).argmax(1), 4).float()

    images, labels = lin400.images, lin400.labels
    adversarial = random_noise(labels_only, images, labels, epsilon=0.2, trials=50)
    assert lin400.robust_accuracy(adversarial) < lin400.robust_accuracy(images) - 0.05


def test_seeds(lin400):
    first, second = (random_noise(*lin400, epsilon=0.1, trials=1, seed=seed) for seed in (0, 1))
    assert torch.isclose(first, second).double().mean().item() == pytest.approx(0.55, abs=0.05)


def test_trials_must_be_positive(lin400):
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        random_noise(*lin400, epsilon=0.1, trials=0)
