"""Collapse is seen where one step finds nothing and several find all."""

import pytest
import torch
from torch import nn

from components.training.collapse import Look, collapse, look

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
