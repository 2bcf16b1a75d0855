"""Collapse is seen where one step finds nothing and several find all."""

import pytest
import torch
from torch import nn

from components.objectives import choose_objective
from components.training.collapse import Look, collapse, look
from components.training.config import TrainingConfig
from tests.objectives.test_contract import CHOICES, PGD

IMAGES = torch.full((4, 1, 2, 2), 0.5)
LABELS = torch.zeros(4, dtype=torch.int64)
EPSILON = 0.1


class Linear(nn.Module):
    """Right by a lead that falls with the distance from the clean image, in every direction."""

    def __init__(self, lead):
        super().__init__()
        self.lead = nn.Parameter(torch.tensor(lead))

    def forward(self, images):
        lead = self.lead - (images - 0.5).flatten(1).sum(1)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


class Folded(nn.Module):
    """Wrong half-way to the end of the ball, and right again at its end, where one step leads."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        shift = (images - 0.5).flatten(1).mean(1) + 0.3 * EPSILON
        lead = self.scale * ((shift.abs() - 0.5 * EPSILON).abs() - 0.2 * EPSILON)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


@pytest.mark.parametrize(("lead", "accuracy"), [(0.5, 1.0), (0.3, 0.0)])
def test_one_step_and_several_agree_on_a_linear_model(lead, accuracy):
    model = Linear(lead).train()  # the worst image takes 0.4 away
    found = look(model, IMAGES, LABELS, epsilon=EPSILON)
    assert found == Look(fgsm_accuracy=accuracy, pgd_accuracy=accuracy)
    assert model.training and model.lead.grad is None
    assert collapse(found, None) is None


def test_a_folded_model_withstands_one_step_alone():
    found = look(Folded(), IMAGES, LABELS, epsilon=EPSILON, steps=20)
    assert found.fgsm_accuracy == 1 and found.pgd_accuracy < 0.5
    assert "withstand one step" in collapse(found, None)


@pytest.mark.parametrize(
    ("before", "now", "collapsed"),
    [
        ((0.6, 0.5), (0.62, 0.45), False),
        ((0.6, 0.5), (0.45, 0.28), True),  # a fall of 22 points, a gap of 17
        ((0.6, 0.5), (0.30, 0.25), False),  # both fell: the model is worse, not folded
        ((0.6, 0.5), (0.80, 0.55), True),
    ],
)
def test_falls_and_gaps(before, now, collapsed):
    looks = [Look(fgsm_accuracy=f, pgd_accuracy=p) for f, p in (now, before)]
    assert (collapse(*looks) is not None) == collapsed


class Seen(nn.Module):
    """Knows whether anybody has asked for a gradient of its images."""

    latent_features = ("features",)

    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.attacked = False

    def forward(self, images):
        self.attacked |= images.requires_grad
        return self.head(self.features(images).mean((2, 3)))


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_who_attacks_may_be_watched_and_nobody_else(choice):
    model, images = Seen(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    objective = choose_objective(choice)
    objective.prepare(model)
    for epoch in range(2):
        objective(model, images, torch.eye(3), epoch=epoch)
    assert model.attacked == watched(choice)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"name": "restoration"}, False),
        ({"name": "restoration", "attack": None}, False),
        ({"name": "restoration", "attack": PGD | {"epsilon": 0.1}}, True),
        ({"name": "warmed_up", "epochs": 1, "first": "cross_entropy", "then": "mart"}, True),
        (
            {"name": "warmed_up", "epochs": 1, "first": {"name": "free"}, "then": "restoration"},
            True,
        ),
        (
            {
                "name": "warmed_up",
                "epochs": 1,
                "first": "cross_entropy",
                "then": {"name": "restoration"},
            },
            False,
        ),
    ],
)
def test_objectives_with_and_without_an_attack(choice, expected):
    assert watched(choice) == expected


def watched(choice):
    """Say whether settings that watch an objective for collapse are taken."""
    try:
        TrainingConfig(objective=choice, collapse_epsilon=EPSILON)
    except ValueError as error:
        assert str(error).endswith("which does not attack")
        return False
    return True
