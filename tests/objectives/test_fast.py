"""One-step objectives against a linear model, where every gradient is known."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.attacks.fgsm import fgsm
from components.defences import DEFENCES
from components.objectives import choose_objective
from components.objectives.free import Free
from components.objectives.grad_align import alignment, grad_align, usual_weight
from components.objectives.n_fgsm import n_fgsm

EPSILON = 0.1
IMAGES = torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
TARGETS = torch.tensor([[1.0, 0.0]]).repeat(16, 1)
SLOPE = torch.tensor([1.0, -2.0, 0.5, -0.25])  # of the true class's lead


class Recorded(nn.Module):
    """A linear model that remembers what it was trained on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2, bias=False)
        self.layer.weight.data = torch.stack([SLOPE, torch.zeros(4)])
        self.seen = []

    def forward(self, images):
        if self.training:
            self.seen.append(images.detach().clone())
        return self.layer(images.flatten(1))


@pytest.fixture
def linear():
    return Recorded().train()


def worst_direction():
    return -SLOPE.sign().view(1, 1, 2, 2)


def test_fgsm_rs_steps_from_a_start_in_the_ball(linear):
    choose_objective({"name": "fgsm_rs", "epsilon": EPSILON})(linear, IMAGES, TARGETS, seed=0)
    along = (linear.seen[0] - IMAGES) * worst_direction()
    # From anywhere in [-1, 1] radii, 1.25 further, cut back to 1: an eighth of them falls short.
    assert bool((along >= 0.25 * EPSILON - 1e-6).all() and (along <= EPSILON + 1e-6).all())
    assert 0 < float((along < EPSILON - 1e-6).float().mean()) < 0.7
    assert float(along.min()) < 0.9 * EPSILON


def test_n_fgsm_keeps_the_noise(linear):
    n_fgsm(linear, IMAGES, TARGETS, epsilon=EPSILON)
    noise = (linear.seen[0] - IMAGES) / EPSILON - worst_direction()
    assert float(noise.abs().max()) <= 2 + 1e-5 < 2.1
    assert float(noise.abs().max()) > 1.5  # two radii, not one
    assert abs(float(noise.mean())) < 0.5


def test_n_fgsm_stays_in_the_box(linear):
    n_fgsm(linear, IMAGES.round(), TARGETS, epsilon=0.5)
    assert bool(((linear.seen[0] >= 0) & (linear.seen[0] <= 1)).all())


def test_free_takes_the_step_of_its_own_backward_pass(linear):
    free = Free(epsilon=EPSILON, step_size=0.04, replays=3)
    for _ in range(4):
        free(linear, IMAGES, TARGETS)["loss"].backward()
    expected = [0.0, 0.04, 0.08, EPSILON]
    for seen, radius in zip(linear.seen, expected, strict=True):
        assert torch.allclose(seen, IMAGES + radius * worst_direction(), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_free_moves_black_and_white_pixels(linear, value):
    """Those that would leave [0, 1] stay."""
    free, images = Free(epsilon=EPSILON), torch.full_like(IMAGES, value)
    for _ in range(3):
        free(linear, images, TARGETS)["loss"].backward()
    expected = (images + EPSILON * worst_direction()).clamp(0, 1)
    assert not torch.equal(expected, images)
    assert torch.allclose(linear.seen[-1], expected)


def test_free_refuses_a_model_whose_gradients_may_be_masked(linear):
    for defended in (DEFENCES["bit_depth"](linear), nn.Sequential(DEFENCES["smoothing"](linear))):
        with pytest.raises(ValueError, match="leave the defences out, or take fgsm_rs"):
            Free(epsilon=EPSILON)(defended, IMAGES, TARGETS)


def test_free_carries_the_perturbation_over_shorter_and_longer_batches(linear):
    free = Free(epsilon=EPSILON)
    free(linear, IMAGES[:8], TARGETS[:8])["loss"].backward()
    free(linear, IMAGES[:3], TARGETS[:3])["loss"].backward()
    free(linear, IMAGES, TARGETS)
    shift = linear.seen[2] - IMAGES
    moved = EPSILON * worst_direction().expand(8, -1, -1, -1)
    assert torch.allclose(shift[:8], moved, atol=1e-6)
    assert not bool(shift[8:].any())


def test_free_says_how_often_a_batch_comes():
    choice = {"name": "free", "epsilon": EPSILON, "replays": 4}
    assert choose_objective(choice).replays == 4
    assert choose_objective({"name": "cross_entropy"}).replays == 1


def test_free_goes_on_from_its_state(linear):
    first, second = (choose_objective({"name": "free", "epsilon": EPSILON}) for _ in range(2))
    for _ in range(3):
        first(linear, IMAGES, TARGETS)["loss"].backward()
    second.restore(first.state())
    for objective in (first, second):
        objective(linear, IMAGES, TARGETS)
    assert torch.equal(linear.seen[-1], linear.seen[-2])
    assert not torch.equal(linear.seen[-1], IMAGES)
    forgetful = choose_objective({"name": "cross_entropy"})
    assert forgetful.state() == {}
    forgetful.restore({})


def test_objectives_do_not_share_a_perturbation(linear):
    first, second = (choose_objective({"name": "free", "epsilon": EPSILON}) for _ in range(2))
    first(linear, IMAGES, TARGETS)["loss"].backward()
    first(linear, IMAGES, TARGETS)
    second(linear, IMAGES, TARGETS)
    assert not torch.equal(linear.seen[1], IMAGES)
    assert torch.equal(linear.seen[2], IMAGES)


def test_grad_align_asks_nothing_of_a_linear_model(linear):
    losses = grad_align(linear, IMAGES, TARGETS, epsilon=EPSILON, weight=3.0)
    assert float(losses["misalignment"]) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(linear.seen[0], IMAGES + EPSILON * worst_direction())
    assert float(losses["loss"].detach()) == pytest.approx(float(losses["adversarial_loss"]))


class Curved(nn.Module):
    """Its lead is a sum of squares, so its gradient at x is 2 w x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        self.nearby = []

    def forward(self, images):
        if images.requires_grad:
            self.nearby.append(images.detach())
        lead = (self.weight * images.flatten(1).square()).sum(1)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


def test_grad_align_measures_the_turn_and_learns_from_it():
    model = Curved().train()
    losses = grad_align(model, IMAGES, TARGETS, epsilon=EPSILON, weight=1.0)
    there, nearby = (points.flatten(1) for points in model.nearby[-2:])
    assert torch.equal(there, IMAGES.flatten(1))
    assert float((nearby - there).abs().max()) <= EPSILON + 1e-6

    def misalignment(weight):
        first, second = (weight.detach() * there), weight * nearby
        return 1 - functional.cosine_similarity(first, second, dim=1).mean()

    assert float(losses["misalignment"]) == pytest.approx(
        misalignment(model.weight).item(), abs=1e-6
    )
    (expected,) = torch.autograd.grad(misalignment(model.weight), model.weight)
    attacked = fgsm(model, IMAGES, TARGETS.argmax(1), epsilon=EPSILON)
    plain = functional.cross_entropy(model(attacked), TARGETS)
    expected = expected + torch.autograd.grad(plain, model.weight)[0]
    losses["loss"].backward()
    assert torch.allclose(model.weight.grad, expected, atol=1e-5)


def test_images_without_a_gradient_do_not_count():
    model = Curved().train()
    images = torch.cat([IMAGES, torch.zeros(4, 1, 2, 2)])  # where every slope is 0
    targets = torch.tensor([[1.0, 0.0]]).repeat(20, 1)
    some = grad_align(model, IMAGES, TARGETS, epsilon=EPSILON)
    more = grad_align(model, images, targets, epsilon=EPSILON)
    assert torch.equal(some["misalignment"], more["misalignment"])
    more["loss"].backward()
    assert bool(model.weight.grad.isfinite().all())


def test_usual_weight_of_grad_align():
    assert usual_weight(8 / 255) == pytest.approx(0.2)
    assert usual_weight(16 / 255) == pytest.approx(2.0)
    assert usual_weight(0) == pytest.approx(0.02)


def test_alignment_is_a_cosine():
    first = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    second = torch.tensor([1.0, 1, 0, 0]).view(1, 1, 2, 2)
    assert float(alignment(first, second)) == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"name": "n_fgsm", "epsilon": -0.1}, "epsilon must be"),
        ({"name": "n_fgsm", "epsilon": 8.0}, "epsilon must be"),
        ({"name": "n_fgsm", "epsilon": 0.1, "noise_share": -1.0}, "noise_share at least 0"),
        ({"name": "fgsm_rs", "epsilon": 8.0}, "epsilon must be"),
        ({"name": "grad_align", "epsilon": 0.1, "weight": -1.0}, "weight"),
        ({"name": "free", "epsilon": 8.0}, "epsilon"),
        ({"name": "free", "epsilon": 0.1, "replays": 0}, "replays"),
        (
            {"name": "warmed_up", "epochs": -1, "first": "cross_entropy", "then": "cross_entropy"},
            "epochs must be",
        ),
    ],
)
def test_wrong_options_are_refused(choice, words, linear):
    with pytest.raises(ValueError, match=words):
        choose_objective(choice)(linear, IMAGES, TARGETS)


def test_warm_up_ends_with_its_last_epoch(linear):
    attack = {"name": "fgsm", "epsilon": EPSILON}
    objective = choose_objective(
        {
            "name": "warmed_up",
            "epochs": 2,
            "first": "cross_entropy",
            "then": {"name": "adversarial", "attack": attack},
        }
    )
    for epoch in range(4):
        objective(copy.deepcopy(linear), IMAGES, TARGETS, epoch=epoch)
    names = [objective(linear, IMAGES, TARGETS, epoch=e).keys() for e in range(4)]
    assert ["adversarial_loss" in each for each in names] == [False, False, True, True]
