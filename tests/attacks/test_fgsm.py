"""FGSM on linear models, where one step from the clean image is the whole story."""

import pytest
import torch
from torch import nn

from components.attacks.fgsm import fgsm
from components.attacks.geometry import distance
from components.attacks.losses import margin


def test_the_linear_problem_is_the_published_one(lin400):
    model, images, _ = lin400
    assert images.double().sum().item() == pytest.approx(38673.6125, abs=1e-3)
    assert images[0, 0, 0, 0].item() == pytest.approx(0.388840, abs=1e-6)
    assert model[1].weight[0, 0].item() == pytest.approx(0.527392, abs=1e-6)
    logits = [23.68292786, 23.05841852, 22.95750135, 22.76982131]
    assert model(images[:1])[0].tolist() == pytest.approx(logits, abs=1e-4)
    assert lin400.robust_accuracy(images) == 0.8575


@pytest.mark.parametrize(("epsilon", "robust"), [(4 / 255, 0.7275), (8 / 255, 0.5100)])
@pytest.mark.parametrize("loss", ["cross_entropy", "logit_odds"])
def test_published_robust_accuracy(loss, epsilon, robust, lin400):
    adversarial = fgsm(*lin400, epsilon=epsilon, loss=loss)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)


@pytest.mark.parametrize(
    ("norm", "epsilon", "worst"),
    [
        ("linf", 0.1, -0.4),
        ("linf", 0.2, 0.2),
        ("l2", 0.2, -0.292893),
        ("l2", 0.4, 0.414214),
        ("l1", 0.3, -0.1),
        ("l1", 0.6, 0.8),
        ("l1", 1.0, 1.4),
    ],
)
def test_worst_margin_in_reach(norm, epsilon, worst, tiny):
    model, image, label = tiny([0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2])
    adversarial = fgsm(model, image, label, epsilon=epsilon, norm=norm, loss="margin")
    assert margin(model(adversarial), label).item() == pytest.approx(worst, abs=1e-6)


def test_step_of_a_binary_model_follows_the_difference_of_its_weights():
    layer = nn.Linear(4, 2)
    model = nn.Sequential(nn.Flatten(), layer)
    images = torch.tensor([0.5, 0.5, 0.98, 0.01]).view(1, 1, 1, 4).repeat(2, 1, 1, 1)
    layer.weight.data = torch.tensor([[0.0, 0, 0, 0], [1, -2, 3, -0.1]])
    adversarial = fgsm(model, images, torch.tensor([0, 1]), epsilon=0.1)
    upward, downward = (0.6, 0.4, 1.0, 0.0), (0.4, 0.6, 0.88, 0.11)
    assert adversarial.view(2, 4).tolist() == [pytest.approx(upward), pytest.approx(downward)]


def test_l2_step_has_the_full_length_where_the_box_allows(lin400):
    middle = lin400.images * 0.2 + 0.4
    adversarial = fgsm(lin400.model, middle, lin400.labels, epsilon=0.3, norm="l2")
    assert distance(adversarial - middle, "l2").tolist() == pytest.approx([0.3] * 400, rel=1e-5)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.4), ("l2", 0.7), ("l1", 1.1)])
def test_it_is_exact_on_a_binary_model_at_the_wall_too(norm, epsilon):
    """No point of ball and box has a larger margin: two million were tried."""
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.0, 0, 0], [1, -2, 0.5]])
    model = nn.Sequential(nn.Flatten(), layer)
    image, label = torch.tensor([0.5, 0.2, 0.9]).view(1, 1, 1, 3), torch.tensor([0])
    found = margin(model(fgsm(model, image, label, epsilon=epsilon, norm=norm)), label).item()
    axis = torch.linspace(0, 1, 129)
    grid = torch.cartesian_prod(axis, axis, axis).view(-1, 1, 1, 3)
    near = grid[distance(grid - image, norm) <= epsilon]
    with torch.no_grad():
        best = margin(model(near), torch.zeros(len(near), dtype=torch.int64)).max().item()
    assert best <= found + 1e-5 and found <= best + 0.03


def test_logit_odds_see_through_a_sure_model(lin400):
    """Logits times 100 move no decision, but cross-entropy's gradient loses the true class."""
    model, images, labels = lin400
    sure = nn.Sequential(model, Scale(100))
    robust = {
        loss: lin400.robust_accuracy(fgsm(sure, images, labels, epsilon=8 / 255, loss=loss))
        for loss in ("cross_entropy", "logit_odds")
    }
    assert robust["logit_odds"] == pytest.approx(0.44)
    assert robust["cross_entropy"] > 0.65


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


def test_scale_and_shift_of_the_logits_change_nothing(lin400):
    model, images, labels = lin400
    plain = fgsm(model, images, labels, epsilon=0.05, loss="margin")
    scaled = fgsm(lambda x: 8 * model(x) + 5, images, labels, epsilon=0.05, loss="margin")
    assert torch.equal(scaled, plain)


def test_tiny_gradients_are_not_averaged_away(lin400):
    """At 1e-42 of the logits a gradient still has its signs; 1/400 of it would have none."""
    model, images, labels = lin400
    plain = fgsm(model, images, labels, epsilon=0.05, loss="margin")
    tiny = fgsm(lambda x: 1e-42 * model(x), images, labels, epsilon=0.05, loss="margin")
    assert torch.isclose(tiny, plain).double().mean() > 0.95


def test_seed_has_no_effect(lin400):
    plain, seeded = (fgsm(*lin400, epsilon=0.05, seed=seed) for seed in (0, 1))
    assert torch.equal(plain, seeded)


def test_model_without_gradient_is_refused(lin400):
    with pytest.raises(ValueError, match="attack it through its honest view"):
        fgsm(lambda x: lin400.model(x.detach()), lin400.images, lin400.labels, epsilon=0.05)


def test_unknown_loss(lin400):
    with pytest.raises(ValueError, match="unknown loss 'hope'"):
        fgsm(*lin400, epsilon=0.05, loss="hope")
