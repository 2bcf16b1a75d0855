"""Adversarial training against a linear model whose worst image is known."""

import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.choose import choose
from components.defences import DEFENCES
from components.objectives.adversarial import adversarial

IMAGES = torch.full((1, 1, 1, 2), 0.5)
TARGETS = torch.tensor([[1.0, 0.0]])


@pytest.fixture
def linear() -> nn.Module:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    return nn.Sequential(nn.Flatten(), layer)


def fgsm(epsilon: float):
    return choose(ATTACKS, {"name": "fgsm", "epsilon": epsilon}, given=("seed",))


def test_loss_is_that_of_the_worst_image(linear):
    loss = adversarial(linear, IMAGES, TARGETS, attack=fgsm(0.1))["loss"]
    logit = (0.5 - 0.1) - 2 * (0.5 + 0.1)
    assert float(loss.detach()) == pytest.approx(torch.log1p(torch.tensor(-logit).exp()).item())


def test_clean_share_mixes(linear):
    parts = adversarial(linear, IMAGES, TARGETS, attack=fgsm(0.1), clean_share=1 / 3)
    mixture = (parts["clean_loss"] + 2 * parts["adversarial_loss"]) / 3
    assert float(parts["loss"].detach()) == pytest.approx(float(mixture))


def test_clean_share_outside_its_range_is_refused(linear):
    with pytest.raises(ValueError, match="clean_share"):
        adversarial(linear, IMAGES, TARGETS, attack=fgsm(0.1), clean_share=1.5)


def test_images_are_crafted_through_the_honest_view(linear):
    """Through gradient concealment itself the signs are coin tosses, and the loss would be less."""
    concealed = DEFENCES["gradient_concealment"](linear)
    grey = torch.linspace(0.26, 0.74, 2).view(1, 1, 1, 2)  # where the forward pass is unchanged
    honest = adversarial(linear, grey, TARGETS, attack=fgsm(0.1))["loss"]
    assert torch.equal(adversarial(concealed, grey, TARGETS, attack=fgsm(0.1))["loss"], honest)
