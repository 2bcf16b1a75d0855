"""Sums of cross-entropies: each part is recomputed from the images it must have been given."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.augmentations.cutmix import cutmix
from components.augmentations.mixup import mixup
from components.defences import DEFENCES
from components.objectives.cutmix_and_mixup import cutmix_and_mixup
from components.objectives.fgsm_regularised import fgsm_regularised

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
LABELS = torch.arange(6) % 3
TARGETS = torch.eye(3)[LABELS]


class Recorded(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = nn.Linear(192, 3), []

    def forward(self, images):
        if self.training:
            self.seen.append(images.detach().clone())
        return self.layer(images.flatten(1))


@pytest.fixture
def linear():
    return Recorded().train()


def test_three_parts_are_added(linear):
    generator = torch.Generator().manual_seed(4)
    forms = [
        (IMAGES, TARGETS),
        cutmix(IMAGES, TARGETS, generator=generator),
        mixup(IMAGES, TARGETS, generator=generator),
    ]
    parts = [float(functional.cross_entropy(linear(x), y).detach()) for x, y in forms]
    losses = cutmix_and_mixup(linear, IMAGES, TARGETS, seed=4)
    assert float(losses["loss"].detach()) == pytest.approx(sum(parts))
    names = "clean_loss", "cutmix_loss", "mixup_loss"
    assert [float(losses[name]) for name in names] == pytest.approx(parts)


def test_a_part_without_weight_costs_nothing(linear):
    losses = cutmix_and_mixup(
        linear, IMAGES, TARGETS, clean_weight=2.0, cutmix_weight=0.0, mixup_weight=0.0
    )
    assert losses.keys() == {"loss", "clean_loss"} and len(linear.seen) == 1
    assert float(losses["loss"].detach()) == pytest.approx(2 * float(losses["clean_loss"]))


def test_weights_below_zero_are_refused(linear):
    with pytest.raises(ValueError, match="weights"):
        cutmix_and_mixup(linear, IMAGES, TARGETS, mixup_weight=-1.0)


def radii(linear, seed, **options):
    """Of both attacks, from what the model was trained on."""
    linear.seen.clear()
    fgsm_regularised(linear, IMAGES, TARGETS, cutmix_probability=0.0, seed=seed, **options)
    _, _, fgsm, targeted = linear.seen
    return [(pairs[:6] - IMAGES).abs().amax().item() for pairs in (fgsm, targeted)]


def test_pairs_lie_a_step_away_on_both_sides(linear):
    losses = fgsm_regularised(linear, IMAGES, TARGETS, cutmix_probability=0.0, seed=1)
    clean, _, *attacked = linear.seen
    assert torch.equal(clean, IMAGES)
    leads = functional.cross_entropy(linear(points := IMAGES.clone().requires_grad_()), TARGETS)
    (slope,) = torch.autograd.grad(leads, points)
    for pairs in attacked:
        there, back = (half - IMAGES for half in pairs.chunk(2))
        assert torch.allclose(there, -back, atol=1e-6)
    there = attacked[0][:6] - IMAGES
    assert torch.equal(there.sign(), slope.sign())
    expected = functional.cross_entropy(linear(attacked[0]), TARGETS.repeat(2, 1))
    assert float(losses["fgsm_loss"]) == pytest.approx(float(expected.detach()))
    parts = [losses[f"{n}_loss"] for n in ("clean", "mixup", "fgsm", "targeted")]
    assert float(losses["loss"].detach()) == pytest.approx(float(sum(parts)))


def test_radii_come_from_the_grid_and_are_drawn_apart(linear):
    drawn = [radii(linear, seed) for seed in range(40)]
    grid = torch.linspace(0.001, 0.08, 20)
    for pair in drawn:
        for radius in pair:
            assert float((grid - radius).abs().min()) < 1e-6
    assert len({round(first, 4) for first, _ in drawn}) > 8
    assert any(abs(first - second) > 1e-4 for first, second in drawn)
    (lowest, _) = radii(linear, 0, epsilons=1, smallest_epsilon=0.05)
    assert lowest == pytest.approx(0.05, abs=1e-6)


def test_targeted_pairs_first_go_towards_their_classes(linear):
    """Straight to where the drawn class is likelier, and back to where it is less likely."""
    fgsm_regularised(linear, IMAGES, TARGETS, cutmix_probability=0.0, seed=2)
    generator = torch.Generator().manual_seed(2)
    torch.randint(20, (1,), generator=generator), torch.randint(20, (1,), generator=generator)
    goals = torch.randint(3, (6,), generator=generator)[:, None]
    there, back = linear.seen[3].chunk(2)
    points = there, IMAGES.clone().requires_grad_(), back
    towards, before, away = (linear(each).log_softmax(1).gather(1, goals) for each in points)
    assert bool(((towards > before) & (before > away)).all())
    (slope,) = torch.autograd.grad(before.sum(), points[1])
    assert torch.equal((there - IMAGES).sign(), slope.sign())


def test_no_pairs_is_half_as_many(linear):
    fgsm_regularised(linear, IMAGES, TARGETS, pairs=False)
    assert [len(images) for images in linear.seen] == [6, 6, 6, 6]


def test_attacked_images_may_be_learnt_as_what_the_model_takes_them_for(linear):
    linear.seen.clear()
    predicted = linear(IMAGES).argmax(1)
    assert not torch.equal(predicted, LABELS)
    losses = fgsm_regularised(
        linear, IMAGES, TARGETS, labels="predicted", cutmix_probability=0.0, seed=1
    )
    expected = functional.cross_entropy(linear(linear.seen[3]), predicted.repeat(2))
    assert float(losses["fgsm_loss"]) == pytest.approx(float(expected.detach()))


def test_cutmix_replaces_the_first_part_alone(linear):
    fgsm_regularised(linear, IMAGES, TARGETS, cutmix_probability=1.0, seed=1)
    mixed, *others = linear.seen
    assert not torch.equal(mixed, IMAGES)
    linear.seen.clear()
    fgsm_regularised(linear, IMAGES, TARGETS, cutmix_probability=0.0, seed=1)
    plain, *same = linear.seen
    assert torch.equal(plain, IMAGES)
    assert all(torch.equal(one, other) for one, other in zip(others, same, strict=True))


def test_examples_are_crafted_with_concealment_bypassed(linear):
    # Above a quarter the concealing layer changes no pixel, so that the losses can be compared.
    concealed = DEFENCES["gradient_concealment"](linear).train()
    losses = [
        fgsm_regularised(model, IMAGES, TARGETS, cutmix_probability=0.0, seed=1)["fgsm_loss"]
        for model in (linear, concealed)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epsilons": 0}, "epsilons must be at least one"),
        ({"smallest_epsilon": 0.2}, "from smallest to largest"),
        ({"largest_epsilon": 8.0}, r"within \[0, 1\], got 20 from 0.001 to 8.0"),
        ({"fgsm_weight": -1.0}, "weights must be at least 0, got {'fgsm': -1.0"),
        ({"targeted_weight": -1.0}, "weights must be at least 0"),
        ({"mixup_weight": -1.0}, "weights must be at least 0"),
        ({"cutmix_probability": 7.0}, r"cutmix_probability must be in \[0, 1\], got 7.0"),
        ({"cutmix_probability": -0.1}, r"cutmix_probability must be in \[0, 1\], got -0.1"),
    ],
)
def test_wrong_options_are_refused(wrong, words, linear):
    with pytest.raises(ValueError, match=words):
        fgsm_regularised(linear, IMAGES, TARGETS, **wrong)
