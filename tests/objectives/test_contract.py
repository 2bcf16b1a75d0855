"""Every entry of OBJECTIVES: a differentiable loss that leaves the images alone."""

import copy

import pytest
import torch
from torch import nn

from components.objectives import OBJECTIVES, choose_objective

EPSILON = {"epsilon": 0.1}
PGD = {"name": "pgd", "steps": 2, "keep": "last"}
ASCENT = {"name": "ascent", "steps": 2, "start": "near"}
BUDGET = {"epsilon": 0.1, "low_epsilon": 0.05}
CHOICES = {
    "adversarial": {"name": "adversarial", "attack": PGD | EPSILON, "clean_share": 0.5},
    "awp": {"name": "awp", "objective": {"name": "trades", "attack": ASCENT | EPSILON}},
    "bayesian": {"name": "bayesian", "kl_weight": 1e-5, "attack": PGD | EPSILON},
    "cross_entropy": {"name": "cross_entropy", "label_smoothing": 0.1},
    "cutmix_and_mixup": {"name": "cutmix_and_mixup"},
    "fgsm_regularised": {"name": "fgsm_regularised"},
    "fgsm_rs": {"name": "fgsm_rs"} | EPSILON,
    "free": {"name": "free", "replays": 2} | EPSILON,
    "grad_align": {"name": "grad_align"} | EPSILON,
    "mart": {"name": "mart", "attack": ASCENT | EPSILON},
    "n_fgsm": {"name": "n_fgsm"} | EPSILON,
    "part": {"name": "part", "attack": PGD, "budget": BUDGET},
    "part_m": {"name": "part_m", "attack": ASCENT, "budget": BUDGET | {"rule": "soft"}},
    "part_t": {"name": "part_t", "attack": ASCENT, "budget": BUDGET | {"control": "shuffled"}},
    "trades": {"name": "trades", "attack": ASCENT | EPSILON},
    "vulnerability_suppression": {
        "name": "vulnerability_suppression",
        "weight": 0.1,
        "attack": PGD | EPSILON,
    },
    "warmed_up": {
        "name": "warmed_up",
        "epochs": 1,
        "first": "cross_entropy",
        "then": {"name": "adversarial", "attack": PGD | EPSILON},
    },
}
CRAFTING = {
    name: choice
    for name, choice in CHOICES.items()
    if name in ("adversarial", "fgsm_rs", "mart", "n_fgsm", "part", "part_m", "part_t", "trades")
    or name == "vulnerability_suppression"
}
all_choices = pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    features = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    network = nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    network.latent_features = ("2",)
    return network.train()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 3, 4, 4, generator=generator)
    return images, torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]


def chosen(choice, model):
    objective = choose_objective(choice)
    objective.prepare(model)
    return objective


def test_every_objective_is_exercised():
    """One needs a model of its own; test_restoration.py has it."""
    assert CHOICES.keys() | {"restoration"} == OBJECTIVES.keys()


@all_choices
def test_loss_falls_along_its_gradient(choice, model, batch):
    objective = chosen(choice, model)
    images, targets = batch
    before = images.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    values = []
    for _ in range(30):
        losses = objective(model, images, targets, seed=0)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        values.append(float(losses["loss"].detach()))
    assert values[-1] < values[0]
    assert torch.equal(images, before)


@all_choices
def test_only_the_loss_reaches_the_weights(choice, model, batch):
    losses = chosen(choice, model)(model, *batch, seed=0)
    assert losses["loss"].requires_grad and losses["loss"].ndim == 0
    assert not any(value.requires_grad for name, value in losses.items() if name != "loss")
    assert all(parameter.grad is None for parameter in model.parameters())


@all_choices
def test_model_keeps_training(choice, model, batch):
    model[1].eval()  # a part that is frozen on purpose stays so
    objective = chosen(choice, model)
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    objective(model, *batch, seed=0)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        assert before[name][0] == id(parameter)
        assert torch.equal(before[name][1], parameter)


@all_choices
def test_same_seed_same_loss(choice, model, batch):
    objective = chosen(choice, model)
    copies = model, copy.deepcopy(model)  # an objective may move running averages
    first, second = (float(objective(m, *batch, seed=3)["loss"].detach()) for m in copies)
    assert first == second


@all_choices
def test_one_image_of_one_class_is_a_batch(choice, model, batch):
    model[1].eval()
    loss = chosen(choice, model)(model, batch[0][:1, :, :3], batch[1][:1], seed=0)["loss"]
    assert bool(loss.isfinite())


@pytest.mark.parametrize("choice", CRAFTING.values(), ids=CRAFTING)
def test_crafting_leaves_no_trace_even_when_it_fails(choice, model, batch):
    class Stop(Exception):
        pass

    def fail(module, inputs, output):
        if not module.training:
            raise Stop

    model[5].register_forward_hook(fail)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Stop):
        choose_objective(choice)(model, *batch, seed=0)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
@pytest.mark.parametrize("choice", CRAFTING.values(), ids=CRAFTING)
def test_a_copy_is_attacked_much_like_the_model(choice, precision, model, batch):
    plain = choose_objective(choice)(copy.deepcopy(model), *batch, seed=0)["loss"]
    searched = choose_objective({**choice, "precision": precision})(model, *batch, seed=0)["loss"]
    assert float(searched.detach()) == pytest.approx(float(plain.detach()), abs=0.05)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"name": "adversarail"}, "unknown name 'adversarail'"),
        ({"name": "part", "attack": PGD}, "needs the option 'budget'"),
        ({"name": "part", "attack": PGD | EPSILON, "budget": BUDGET}, "has no option 'epsilon'"),
        ({"name": "part", "attack": PGD, "budget": {"epsilon": 0.1}}, "'low_epsilon'"),
        ({"name": "part", "attack": PGD, "budget": 0.1}, "budget must be"),
        ({"name": "part", "attack": PGD, "budget": BUDGET | {"rule": "jet"}}, "release_jet"),
        ({"name": "part", "attack": PGD, "budget": BUDGET | {"control": "x"}}, "inverted"),
        ({"name": "part", "attack": PGD, "budget": BUDGET | {"method": "x"}}, "gradcam"),
        ({"name": "trades", "attack": PGD | EPSILON}, "expected one of \\['ascent'\\]"),
        ({"name": "awp", "objective": {"name": "free"} | EPSILON}, "cannot wrap 'free'"),
        ({"name": "awp", "objective": 3}, "objective must be"),
        ({"name": "adversarial", "attack": PGD | EPSILON, "attacked": 1}, "no option 'attacked'"),
    ],
)
def test_wrong_choices_are_refused_by_name(choice, words):
    with pytest.raises(ValueError, match=words):
        choose_objective(choice)
