"""The training attack: where it starts, how far it steps, and that it agrees with PGD."""

import pytest
import torch
from torch import nn

from components.attacks.losses import LOSSES
from components.attacks.pgd import pgd
from components.objectives.ascent import ascent

IMAGES = torch.rand(4, 3, 5, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
EPSILON = 0.1


class Asked(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
        self.points = []

    def forward(self, images):
        self.points.append(images.detach().clone())
        return self.layers(images)


@pytest.fixture
def model():
    return Asked()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_the_last_point_of_pgd(norm, loss, model):
    options = {"epsilon": EPSILON, "norm": norm, "steps": 4, "loss": loss, "seed": 3}
    expected = pgd(model, IMAGES, LABELS, keep="last", **options)
    assert torch.allclose(ascent(model, IMAGES, LABELS, **options), expected, atol=1e-6)


def starts(model, start, **options):
    ascent(model, IMAGES, LABELS, epsilon=EPSILON, steps=1, start=start, **options)
    return model.points[0] - IMAGES


def test_starts(model):
    assert not bool(starts(model, "clean").any())
    near = starts(Asked(), "near")
    assert float(near.std()) == pytest.approx(0.001, rel=0.2)
    ball = starts(Asked(), "ball")
    assert bool(((IMAGES + ball >= 0) & (IMAGES + ball <= 1)).all())
    assert 0.9 * EPSILON < float(ball.abs().max()) <= EPSILON + 1e-6
    low = torch.full((4, 1, 5, 4), EPSILON / 2)
    low[0, 0, 0, 0] = EPSILON
    asked = Asked()
    ascent(asked, IMAGES, LABELS, epsilon=low, steps=1, start="cube")
    cube = asked.points[0]
    assert float((cube - IMAGES).abs().max()) > 0.9 * EPSILON
    assert bool(((cube < 0) | (cube > 1)).any())


def test_steps_have_the_length_that_is_asked_for(model):
    for options, length in (({"step_size": 0.02}, 0.02), ({"step_share": 0.5}, 0.05), ({}, 0.1)):
        asked = Asked()
        middle = IMAGES * 0.5 + 0.25
        end = ascent(asked, middle, LABELS, epsilon=EPSILON, steps=1, start="clean", **options)
        assert torch.allclose((end - middle).abs(), torch.tensor(length), atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": 0.1, "step_share": 1.0}, "exclude"),
        ({"loss": "hinge"}, "unknown loss"),
        ({"start": "cube", "norm": "l2"}, "start must be"),
        ({"epsilon": 8.0}, "epsilon"),
    ],
)
def test_wrong_options_are_refused(wrong, words, model):
    with pytest.raises(ValueError, match=words):
        ascent(model, IMAGES, LABELS, **{"epsilon": EPSILON, **wrong})
