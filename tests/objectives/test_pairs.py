"""TRADES, MART and their kin of PART against figures worked out by hand, and against each other."""

import copy

import pytest
import torch
from torch import nn

from components.objectives import choose_objective
from components.objectives.crafting import Once, divergence, paired_logits
from components.objectives.mart import misclassification_aware
from components.objectives.masks import RULES
from components.objectives.trades import trade_off

CLEAN = torch.tensor([[2, 0.5, -1], [0.2, 0.1, 0], [-0.5, 1.5, 0.3]]).double()
ATTACKED = torch.tensor([[0.8, 1, -0.5], [0.3, -0.2, 0.4], [-0.2, 0.9, 0.7]]).double()
LABELS = torch.tensor([0, 1, 1])
TARGETS = torch.eye(3)[LABELS].double()
EPSILON = 0.1


class Table(nn.Module):
    """Gives the logits of three clean and three attacked images, which it knows by their value."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, images):
        self.passes.append(tuple(images[:, 0, 0, 0].tolist()))
        return torch.stack([CLEAN[int(i)] if i < 3 else ATTACKED[int(i) - 3] for i in images])


IMAGES, TWINS = torch.arange(6.0).view(2, 3, 1, 1, 1)


def test_divergence_of_three_images():
    expected = torch.tensor([0.308065, 0.038341, 0.109526])
    assert torch.allclose(divergence(CLEAN, ATTACKED), expected, atol=1e-6)


@pytest.mark.parametrize("forwards", ["separate", "joint", "legacy"])
@pytest.mark.parametrize(("beta", "expected"), [(6.0, 1.4803577), (1.0, 0.7204719)])
def test_trades_of_three_images(beta, expected, forwards):
    losses = trade_off(Table(), IMAGES, TWINS, TARGETS, beta, 0.0, forwards)
    assert float(losses["loss"]) == pytest.approx(expected, abs=1e-6)
    assert float(losses["clean_loss"]) == pytest.approx(0.5684948, abs=1e-6)
    assert float(losses["divergence"]) == pytest.approx(0.1519772, abs=1e-6)


@pytest.mark.parametrize(
    ("beta", "legacy", "expected"),
    [(5.0, True, 1.8256771), (6.0, True, 1.8673223), (5.0, False, 1.8258524)],
)
def test_mart_of_three_images(beta, legacy, expected):
    losses = misclassification_aware(Table(), IMAGES, TWINS, LABELS, beta, legacy, "separate")
    boosted = 1.6174514 if legacy else 1.6176268
    assert float(losses["loss"]) == pytest.approx(expected, abs=1e-6)
    assert float(losses["boosted_loss"]) == pytest.approx(boosted, abs=1e-6)
    assert float(losses["weighted_divergence"]) == pytest.approx(0.0416452, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("legacy", [False, True])
def test_mart_is_finite_where_the_model_is_sure(legacy, label):
    """Right or wrong: there the other probabilities are exactly 0."""
    answers = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)

    class Sure(nn.Module):
        def forward(self, images):
            return answers.repeat(len(images), 1)

    labels = torch.full((3,), label)
    losses = misclassification_aware(Sure(), IMAGES, TWINS, labels, 5.0, legacy, "separate")
    losses["loss"].backward()
    assert bool(losses["loss"].isfinite()) and bool(answers.grad.isfinite().all())


def test_mart_passes_clean_images_once():
    for forwards, passes in {"separate": 2, "joint": 1}.items():
        table = Table()
        misclassification_aware(table, IMAGES, TWINS, LABELS, 5.0, False, forwards)
        assert len(table.passes) == passes
    with pytest.raises(ValueError, match="must be separate or joint, got 'legacy'"):
        misclassification_aware(Table(), IMAGES, TWINS, LABELS, 5.0, False, "legacy")


def test_forwards_pass_clean_and_attacked_images_as_they_say():
    clean, attacked = (0.0, 1.0, 2.0), (3.0, 4.0, 5.0)
    expected = {
        "separate": [clean, attacked],
        "joint": [clean + attacked],
        "legacy": [clean, attacked, clean],
    }
    for forwards, passes in expected.items():
        table = Table()
        paired_logits(table, IMAGES, TWINS, forwards)
        assert table.passes == passes


def test_unknown_forwards_are_refused(unchecked_types):
    with pytest.raises(ValueError, match="separate, joint or legacy"):
        paired_logits(Table(), IMAGES, TWINS, "both")


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_negative_beta_is_refused(name, network, batch):
    choice = {"name": name, "attack": {"name": "ascent", "epsilon": 0.1}, "beta": -1.0}
    with pytest.raises(ValueError, match="beta"):
        choose_objective(choice)(network, *batch)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    features = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).train()


@pytest.fixture
def batch():
    images = torch.rand(6, 3, 7, 5, generator=torch.Generator().manual_seed(1))
    return images, torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]


PGD = {"name": "pgd", "steps": 3, "keep": "last"}
ASCENT = {"name": "ascent", "steps": 3, "start": "near"}
KIN = {
    "part": ("adversarial", PGD),
    "part_t": ("trades", ASCENT),
    "part_m": ("mart", ASCENT),
}


def outcome(choice, network, batch):
    """All that a step depends on: the losses, the gradients, and the running averages."""
    network = copy.deepcopy(network)
    beta = {"beta": 6.0} if choice["name"] in ("mart", "part_m") else {}
    losses = choose_objective(choice | beta)(network, *batch, seed=5)
    losses["loss"].backward()
    gradients = [p.grad for p in network.parameters()]
    return [losses["loss"].detach(), *gradients, *network.state_dict().values()]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("step", [{}, {"step_size": 0.03}])
@pytest.mark.parametrize("kin", KIN)
def test_equal_epsilons_give_the_kin_bit_for_bit(kin, step, network, batch):
    name, attack = KIN[kin]
    plain = {"name": name, "attack": attack | step | {"epsilon": EPSILON}}
    for method in ("gradcam", "uniform", "random"):
        budget = {"epsilon": EPSILON, "low_epsilon": EPSILON, "method": method}
        pixels = {"name": kin, "attack": attack | step, "budget": budget}
        assert same(outcome(pixels, network, batch), outcome(plain, network, batch))


@pytest.mark.parametrize(("everywhere", "epsilon"), [(1.0, EPSILON), (0.0, 0.04)])
@pytest.mark.parametrize("kin", KIN)
def test_masks_of_ones_and_of_zeros_give_the_kin(
    kin, everywhere, epsilon, network, batch, monkeypatch
):
    def rule(maps):
        return torch.full_like(maps, everywhere)

    name, attack = KIN[kin]
    monkeypatch.setitem(RULES, "everywhere", rule)
    plain = {"name": name, "attack": attack | {"epsilon": epsilon}}
    budget = {"epsilon": EPSILON, "low_epsilon": 0.04, "rule": "everywhere"}
    pixels = {"name": kin, "attack": attack, "budget": budget}
    assert same(outcome(pixels, network, batch), outcome(plain, network, batch))


def test_a_smaller_epsilon_makes_a_weaker_attack(network, batch):
    losses = [
        choose_objective(
            {
                "name": "part",
                "attack": PGD,
                "budget": {"epsilon": EPSILON, "low_epsilon": low, "rule": "quantile"},
            }
        )(copy.deepcopy(network), *batch)["loss"]
        for low in (EPSILON, 0.0)
    ]
    assert float(losses[0].detach()) > float(losses[1].detach())


def test_images_are_crafted_once():
    calls = []
    once = Once()
    for _ in range(2):
        assert once(lambda: calls.append(0) or IMAGES) is IMAGES
    assert calls == [0]
