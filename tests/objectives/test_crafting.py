"""Views that training attacks: as precise as they are said to be, whatever training itself is."""

import copy

import pytest
import torch
from torch import nn

from components.attacks.acceleration import SearchCopy
from components.attacks.gradients import input_gradient
from components.attacks.losses import logit_odds, of_logits
from components.objectives import choose_objective
from components.objectives.crafting import attack_view

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4
every_precision = pytest.mark.parametrize("precision", [None, "float32", "bfloat16"])


class Recording(nn.Module):
    """Remembers in which precision its convolution wrote, in training and under attack."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.dense = nn.Linear(8, 4)
        self.written = {True: set(), False: set()}

    def forward(self, images):
        features = self.convolution(images)
        self.written[self.training].add(features.dtype)
        return self.dense(self.norm(features).relu().mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    return Recording().train()


def gradient(model, precision, lower):
    """What an attack gets to see, and what it is a gradient of."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
        with attack_view(model, IMAGES, precision) as view:
            assert not torch.is_autocast_enabled("cpu")  # an attack may multiply matrices itself
            _, slope, logits = input_gradient(view, IMAGES, of_logits(logit_odds, LABELS))
        assert torch.is_autocast_enabled("cpu") is lower
    return view.network, slope, logits


@every_precision
def test_gradients_are_those_without_autocast(precision, model):
    (network, *expected), (mixed, *found) = (
        gradient(copy.deepcopy(model), precision, lower) for lower in (False, True)
    )
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert isinstance(network, Recording) and type(mixed) is type(network)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_copy_is_attacked_under_autocast(precision, model, monkeypatch):
    made = []
    init = SearchCopy.__init__

    def watched(self, network, **options):
        init(self, network, **options)
        made.append(self)

    monkeypatch.setattr(SearchCopy, "__init__", watched)
    network, *_ = gradient(model, precision, lower=True)
    assert network is not model
    (used,) = (each for each in made if each.network is network)
    assert used.precision == precision and used.folded == 1 and used.agreement == 1


@every_precision
def test_training_keeps_its_own_precision(precision, model):
    choice = {"name": "adversarial", "attack": {"name": "fgsm", "epsilon": 0.1}}
    objective = choose_objective({**choice, "precision": precision})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective(model, IMAGES, torch.eye(4)[LABELS])["loss"].backward()
    assert model.written[True] == {torch.bfloat16}
    assert model.written[False] == {torch.float32}  # under attack, or to compare its copy with
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
