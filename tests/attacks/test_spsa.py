"""SPSA: its estimate of a gradient, and the models whose gradient is no use."""

import pytest
import torch

from components.attacks.losses import margin
from components.attacks.spsa import spsa


def left(problem, **options):
    return problem.robust_accuracy(spsa(*problem, epsilon=8 / 255, **options))


@pytest.mark.parametrize(("update", "most"), [("adam", 0.56), ("sign", 0.66)])
def test_nears_the_exact_robust_accuracy(update, most, lin400):
    few, many = (left(lin400, update=update, steps=n, samples=64) for n in (2, 20))
    assert 0.44 <= many <= most and many < few - 0.1


def test_more_samples_guess_better(lin400):
    few, many = (left(lin400, steps=8, samples=samples) for samples in (4, 128))
    assert many < few - 0.03


@pytest.mark.parametrize("update", ["adam", "sign"])
@pytest.mark.parametrize("slope", [-2.0, 0.001])
def test_a_straight_line_is_climbed_to_the_wall_of_the_ball(update, slope, one_pixel):
    """With one pixel the estimate is the slope itself, whatever the signs drawn."""
    model = one_pixel(lambda pixels: slope * (pixels - 0.5) - 1)
    images, labels = torch.full((3, 1, 1, 1), 0.5), torch.zeros(3, dtype=torch.int64)
    adversarial = spsa(model, images, labels, epsilon=0.05, samples=2, steps=11, update=update)
    wall = 0.5 + (0.05 if slope > 0 else -0.05)
    assert torch.allclose(adversarial, torch.full_like(images, wall), atol=1e-5)


def test_the_first_step_of_adam_is_as_long_as_its_step_size(one_pixel):
    model = one_pixel(lambda pixels: 5 * pixels - 100)
    images, labels = torch.full((4, 1, 1, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    asked = []

    def watched(points):
        asked.append(points.flatten())
        return model(points)

    spsa(watched, images, labels, epsilon=0.3, samples=2, steps=1, step_size=0.02, delta=0.01)
    start, neighbours, end = asked
    assert torch.allclose(end, (start + 0.02).clamp_max(0.8), atol=1e-5)
    offsets = (neighbours.view(4, 2) - start[:, None]).sort(1).values
    assert torch.allclose(offsets, torch.tensor([-0.01, 0.01]), atol=1e-6)


def test_steps_of_a_staircase_hide_nothing(lin400):
    """The gradient is zero all over: pixels are rounded to 32 levels."""

    def model(images):
        return lin400.model((images * 31).round() / 31)

    before = lin400.robust_accuracy(lin400.images, model)
    adversarial = spsa(
        model, lin400.images, lin400.labels, epsilon=8 / 255, delta=0.02, steps=20, samples=64
    )
    assert lin400.robust_accuracy(adversarial, model) < before - 0.25


def test_more_steps_never_leave_a_smaller_margin(lin400):
    images, labels = lin400.images[:50], lin400.labels[:50]
    with torch.no_grad():
        margins = [
            margin(
                lin400.model(spsa(lin400.model, images, labels, epsilon=0.1, steps=n, samples=8)),
                labels,
            )
            for n in (1, 3, 9)
        ]
    assert (margins[0] <= margins[1] + 1e-5).all() and (margins[1] <= margins[2] + 1e-5).all()


@pytest.mark.parametrize("batch_size", [3, 40, 256])
def test_a_fooled_image_costs_no_more_queries(batch_size):
    asked = []

    def model(images):
        """Tell bright images from dark ones, whatever a small perturbation does."""
        asked.append(len(images))
        assert not torch.is_grad_enabled() and images.min() >= 0 and images.max() <= 1
        bright = images.mean((1, 2, 3)) - 0.5
        return torch.stack([bright, -bright], 1)

    images = torch.cat([torch.zeros(3, 1, 5, 5), torch.ones(4, 1, 5, 5)])
    labels = torch.zeros(7, dtype=torch.int64)
    spsa(model, images, labels, epsilon=0.1, steps=5, samples=24, batch_size=batch_size)
    assert sum(asked) == 3 * 1 + 4 * (5 * 24 + 6) and max(asked) <= batch_size


def test_batch_size_changes_nothing(lin400):
    weight = lin400.model[1].weight.detach()

    def model(images):
        return (images.flatten(1)[:, None] * weight).sum(2)  # rounds alike in any batch

    images, labels = lin400.images[:9], lin400.labels[:9]
    first, second, third = (
        spsa(model, images, labels, epsilon=0.02, steps=4, samples=96, batch_size=size)
        for size in (5, 64, 1000)
    )
    assert torch.equal(first, second) and torch.equal(second, third)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps and batch_size must be at least 1, got 0 and 256"),
        ({"batch_size": 0}, "steps and batch_size must be at least 1, got 100 and 0"),
        ({"samples": 0}, "samples must be even and at least 2, got 0"),
        ({"samples": 7}, "samples must be even and at least 2, got 7"),
        ({"delta": 0.0}, "delta and step_size must be above 0, got 0.0 and 0.01"),
        ({"step_size": -1.0}, "delta and step_size must be above 0, got 0.01 and -1.0"),
    ],
)
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        spsa(*lin400, epsilon=0.1, **options)
