"""Masks: fixtures, properties of every rule, controls, and whose mask an image gets."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from hypothesis.extra import numpy as arrays
from torch import nn

from components.defences import DEFENCES
from components.defences.random_resize_pad import RandomResizePad, moving_pads
from components.objectives import choose_objective
from components.objectives.ascent import ascent
from components.objectives.budgets import PixelBudget
from components.objectives.controls import CONTROLS
from components.objectives.crafting import attack_view
from components.objectives.masks import RULES, highest, quantile, soft, threshold, zscore

BUMP = torch.tensor(
    [[[[0, 0.1, 0.2, 0.1], [0.1, 0.6, 0.8, 0.2], [0.1, 0.7, 1, 0.2], [0, 0.1, 0.2, 0.1]]]]
)
MONOTONE = {name: rule for name, rule in RULES.items() if name != "release_jet"}
rules = pytest.mark.parametrize("rule", MONOTONE.values(), ids=MONOTONE)


def test_zscore_of_a_bump():
    assert float(BUMP.mean()) == pytest.approx(0.28125)
    assert float(BUMP.std(correction=0)) == pytest.approx(0.300455, abs=1e-6)
    chosen = BUMP > 0.5817
    assert torch.equal(zscore(BUMP).bool(), chosen) and int(chosen.sum()) == 4
    squares = BUMP.square()
    assert float(squares.mean()) == pytest.approx(0.169375)
    assert float(squares.std(correction=0)) == pytest.approx(0.288021, abs=1e-6)
    assert torch.equal(zscore(BUMP, power=2).bool(), squares > 0.457396)
    assert int(zscore(BUMP, power=2).sum()) == 3


def test_quantile_threshold_and_soft_of_a_bump():
    assert torch.equal(quantile(BUMP, share=0.25), zscore(BUMP))
    assert torch.equal(threshold(BUMP, value=0.65).bool(), BUMP > 0.65)
    assert torch.equal(soft(BUMP), BUMP)


def test_ties_go_to_the_first():
    ties = torch.tensor([[[[0.5, 1, 0.5, 0.5]]]])
    assert quantile(ties, share=0.5).flatten().tolist() == [1, 1, 0, 0]
    assert highest(ties, torch.tensor([0.0])).flatten().tolist() == [0, 1, 0, 0]


maps = arrays.arrays("float32", (1, 1, 3, 4), elements=st.floats(0, 1, width=16))


@rules
@hypothesis.given(values=maps, place=st.integers(0, 11), gain=st.floats(0, 1, width=16))
def test_more_importance_never_turns_a_pixel_off(rule, values, place, gain):
    before = torch.from_numpy(values)
    after = before.clone()
    after.view(-1)[place] += gain
    # Room for what rounding does to a mean and a deviation.
    assert rule(after).view(-1)[place] >= rule(before).view(-1)[place] - 1e-6


@rules
@hypothesis.given(values=maps)
def test_most_important_pixel_gets_most(rule, values):
    importance = torch.from_numpy(values)
    weights = rule(importance)
    assert weights.view(-1)[importance.argmax()] == weights.max()
    assert rule is soft or bool((weights == 1).any())


@rules
def test_masks_are_flipped_with_their_maps(rule):
    tilted = BUMP + torch.arange(16.0).view(4, 4) / 1000  # no two alike
    assert torch.equal(rule(tilted.flip(3)), rule(tilted).flip(3))


@pytest.mark.filterwarnings("ignore:release_jet")
def test_published_rule_paints_rings_and_leaves_out_the_peak():
    """The less important a pixel is, the more channels it may change by a lot."""
    side = (torch.arange(32) + 0.5) / 32 - 0.5
    bump = torch.exp(-(side[:, None] ** 2 + side**2) / 0.08)
    bump = ((bump - bump.min()) / (bump.max() - bump.min())).view(1, 1, 32, 32)
    chosen = RULES["release_jet"](bump)
    assert chosen.shape == (1, 3, 32, 32)
    peak = bump[0, 0] > 0.98
    assert not bool(chosen[0, :, peak].any())
    shares = chosen.mean((0, 2, 3)).tolist()
    assert shares == sorted(shares)
    spans = [bump[0, 0][channel.bool()] for channel in chosen[0]]
    red, green, blue = ((float(span.min()), float(span.max())) for span in spans)
    assert red == pytest.approx((0.78, 0.96), abs=0.05)
    assert green == pytest.approx((0.58, 0.83), abs=0.05)
    assert blue[0] < 0.33 and blue[1] == pytest.approx(0.62, abs=0.05)


def test_published_rule_warns():
    with pytest.warns(UserWarning, match="leaves out the most important"):
        RULES["release_jet"](BUMP)


MASKS = torch.stack([zscore(BUMP)[0], zscore(BUMP)[0].roll(1, 2), quantile(BUMP, share=0.5)[0]])


def test_controls_keep_the_mean_budget():
    for name in ("budget_matched", "shuffled", "random_blobs", "centre_disc"):
        control = CONTROLS[name](MASKS, seed=1)
        assert control.shape == MASKS.shape
        assert float(control.mean()) == pytest.approx(float(MASKS.mean())), name
    assert float(CONTROLS["inverted"](MASKS).mean()) == pytest.approx(1 - float(MASKS.mean()))


def test_controls_do_what_their_names_say():
    assert len(CONTROLS["budget_matched"](MASKS).unique()) == 1
    assert torch.equal(CONTROLS["inverted"](MASKS), 1 - MASKS)
    for seed in range(5):
        others = CONTROLS["shuffled"](MASKS, seed=seed)
        assert not any(torch.equal(one, other) for one, other in zip(others, MASKS, strict=True))
        assert sorted(others.sum((1, 2, 3)).tolist()) == sorted(MASKS.sum((1, 2, 3)).tolist())
    counts = MASKS.sum((1, 2, 3))
    for name in ("random_blobs", "centre_disc"):
        assert torch.equal(CONTROLS[name](MASKS, seed=3).sum((1, 2, 3)), counts)
    disc = CONTROLS["centre_disc"](MASKS)[0, 0]
    assert disc[1:3, 1:3].sum() == 4
    blobs = [CONTROLS["random_blobs"](MASKS, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(blobs[0], blobs[1]) and not torch.equal(blobs[0], blobs[2])
    assert torch.equal(CONTROLS["shuffled"](MASKS[:1]), MASKS[:1])


class Brightness(nn.Module):
    """Its features are the image itself, so it looks where the image is bright."""

    def __init__(self):
        super().__init__()
        self.look, self.pool, self.dense = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)
        self.dense.weight.data = torch.tensor([[1.0, 1, 1], [-1, -1, -1]])
        self.dense.bias.data.zero_()

    def forward(self, images):
        return self.dense(self.pool(self.look(images * 1.0)).flatten(1))


def corners():
    """Two images, one with an object at the upper left and one at the lower right."""
    images = torch.zeros(2, 3, 9, 6)
    images[0, :, :3, :3] = 1
    images[1, :, 6:, 3:] = 1
    return images


LABELS = torch.tensor([0, 0])


def epsilons(images, seed=0, **options):
    budget = PixelBudget(epsilon=0.2, low_epsilon=0.1, **options)
    with attack_view(Brightness(), images, None) as view:
        return budget(view, images, LABELS, seed=seed).epsilon


@pytest.mark.parametrize("method", ["cam", "gradcam", "gradcam++", "layercam", "xgradcam"])
def test_every_image_gets_its_own_mask(method):
    images = corners()
    epsilon = epsilons(images, method=method)
    assert torch.equal(epsilon, torch.where(images[:, :1] > 0, 0.2, 0.1))
    swapped = epsilons(images.flip(0), method=method)
    assert torch.equal(swapped, epsilon.flip(0))


@pytest.mark.parametrize("pad", [{}, {"per_sample": True}, {"fixed": True}])
@pytest.mark.parametrize("around", ["bare", "smoothing"])
def test_masks_behind_a_resize_pad_lie_on_the_image(pad, around):
    """They are those of the images as they are, not of a smaller picture elsewhere."""
    images, budget = corners(), PixelBudget(epsilon=0.2, low_epsilon=0.1)
    network = RandomResizePad(Brightness(), min_size=0.5, **pad)
    if around == "smoothing":
        network = DEFENCES["smoothing"](network)
        expected = DEFENCES["smoothing"](Brightness())
    else:
        expected = Brightness()
    for precision in (None, "float32", "bfloat16"):
        with attack_view(expected, images, None) as view:
            wanted = budget(view, images, LABELS, seed=0)
        with attack_view(network, images, precision) as view:
            found = budget(view, images, LABELS, seed=0)
        assert torch.equal(found.epsilon, wanted.epsilon)
        assert found.logits is None and wanted.logits is not None
        assert network.training and moving_pads(network)


def test_part_t_starts_from_what_the_view_says_behind_a_resize_pad():
    choice = {
        "name": "part_t",
        "attack": {"name": "ascent", "steps": 1, "start": "near"},
        "budget": {"epsilon": 0.2, "low_epsilon": 0.1},
    }
    targets = torch.tensor([[1.0, 0]]).repeat(2, 1)
    model = RandomResizePad(Brightness(), min_size=0.5).train()
    losses = choose_objective(choice)(model, corners() * 0.5 + 0.25, targets)
    assert bool(losses["loss"].isfinite())
    assert float(losses["mask_density"]) == pytest.approx(9 / 54)


def test_a_constant_map_takes_nothing_away():
    images = torch.full((2, 3, 5, 5), 0.5)
    budget = PixelBudget(epsilon=0.2, low_epsilon=0.1)
    with attack_view(Brightness(), images, None) as view:
        found = budget(view, images, LABELS, seed=0)
    assert found.constant.all() and bool((found.epsilon == 0.2).all())


def test_methods_that_do_not_ask_the_model():
    images = corners()
    assert bool((epsilons(images, method="uniform") == 0.2).all())
    centre = epsilons(images, method="centre")
    assert bool((centre[:, :, 4, 2:4] == 0.2).all() and (centre[:, :, 0] == 0.1).all())
    assert not torch.equal(
        epsilons(images, method="random", seed=0), epsilons(images, method="random", seed=1)
    )


def test_soft_epsilons_lie_in_between():
    images = corners() * torch.rand(2, 3, 9, 6, generator=torch.Generator().manual_seed(0))
    epsilon = epsilons(images, rule=soft)
    assert float(epsilon.min()) == pytest.approx(0.1) and float(epsilon.max()) == pytest.approx(0.2)
    assert len(epsilon.unique()) > 6


@pytest.mark.filterwarnings("ignore:release_jet")
def test_three_channels_get_masks_of_their_own():
    epsilon = epsilons(corners(), rule=RULES["release_jet"], resize="overshooting")
    assert epsilon.shape == (2, 3, 9, 6)


def test_wrong_budgets_are_refused():
    with pytest.raises(ValueError, match="low_epsilon must be at least 0 and at most epsilon"):
        PixelBudget(epsilon=0.1, low_epsilon=0.2)
    with pytest.raises(ValueError, match="share"):
        quantile(BUMP, share=0.0)


def test_figures_of_a_batch():
    images = corners() * 0.5 + 0.25
    choice = {
        "name": "part",
        "attack": {"name": "fgsm"},
        "budget": {"epsilon": 0.2, "low_epsilon": 0.1},
    }
    targets = torch.tensor([[1.0, 0]]).repeat(2, 1)
    figures = choose_objective(choice)(Brightness().train(), images, targets)
    assert float(figures["mask_density"]) == pytest.approx(9 / 54)
    assert float(figures["mean_epsilon"]) == pytest.approx(0.1 + 0.1 * 9 / 54)
    assert float(figures["constant_maps"]) == 0
    assert float(figures["saturated_important"]) == float(figures["saturated_rest"]) == 1


WEIGHTS = torch.tensor([[2, -1, 0.5, 0], [0.5, 1, -1, 0.5], [-1, 0.5, 1, 1]])
IMAGE = torch.tensor([0.6, 0.3, 0.5, 0.2]).view(1, 1, 2, 2)
EPSILONS = torch.tensor([0.2, 0.1, 0.2, 0.1]).view(1, 1, 2, 2)


@pytest.mark.parametrize(("rival", "worst"), [(1, 0.40), (2, 0.05)])
@pytest.mark.parametrize("start", ["ball", "near", "cube", "clean"])
def test_epsilon_of_every_pixel_in_a_linear_model(rival, worst, start):
    layer = nn.Linear(4, 3)
    layer.weight.data, layer.bias.data = WEIGHTS, torch.tensor([0.1, -0.2, 0])
    model = nn.Sequential(nn.Flatten(), layer)
    attacked = ascent(
        model,
        IMAGE,
        torch.tensor([0]),
        epsilon=EPSILONS,
        steps=4,
        step_share=1.0,
        start=start,
        loss=lambda logits: logits[:, rival] - logits[:, 0],
    )
    logits = model(attacked)[0].detach()
    assert float(logits[0] - logits[rival]) == pytest.approx(worst, abs=1e-6)
    assert bool(((attacked - IMAGE).abs() <= EPSILONS + 1e-6).all())
