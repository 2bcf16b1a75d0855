"""Steps of a learner against steps written out, and what it keeps."""

import copy
import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.models.build import ModelSpec, build_model
from components.objectives import Objective, choose_objective
from components.training.averaging import Average
from components.training.collapse import Look
from components.training.config import TrainingConfig
from components.training.learner import Learner
from components.training.optimizers import grouped

SETTINGS = TrainingConfig(
    objective={"name": "cross_entropy"},
    optimizer={"name": "sgd", "momentum": 0.0},
    schedule={"name": "constant"},
    learning_rate=0.5,
    epochs=4,
)
IMAGES = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
TARGETS = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
ROWS = torch.arange(6)
BATCHES = 2


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def scaled(model, images, targets, *, seed):
    return {"loss": 10 * functional.cross_entropy(model(images), targets)}


def gradient(model):
    loss = scaled(model, IMAGES, TARGETS, seed=0)["loss"]
    return torch.autograd.grad(loss, list(model.parameters()))


def learner(objective=None, **changes):
    chosen = objective or Objective("scaled", scaled)
    made = Learner(network(), chosen, replace(SETTINGS, **changes), BATCHES)
    made.keep({"validation_clean_accuracy": 0.0})
    return made


def steps(made, count):
    for _ in range(count):
        made.step(IMAGES, TARGETS, rows=ROWS)
    return list(made.model.parameters())


def test_a_step_of_gradient_descent():
    model = network()
    expected = [p - 0.5 * g for p, g in zip(model.parameters(), gradient(model), strict=True)]
    for weight, value in zip(steps(learner(), 1), expected, strict=True):
        assert torch.allclose(weight, value, atol=1e-6)


def test_long_gradients_are_shortened():
    model = network()
    slopes = gradient(model)
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    assert length > 2
    made = learner(clip_norm=0.1)
    for weight, start, slope in zip(steps(made, 1), model.parameters(), slopes, strict=True):
        assert torch.allclose(weight, start - 0.5 * 0.1 * slope / length, atol=1e-6)
    steps(made, 1)
    assert made.finish_epoch({"validation_clean_accuracy": 0.0})["gradient_norm"] > 1


def test_warm_up_rises_to_the_schedule():
    made, rates = learner(warmup_epochs=1.5), []
    for _ in range(2):
        for _ in range(BATCHES):
            steps(made, 1)
            rates.append(made.state()["optimizer"]["param_groups"][0]["lr"])
        made.finish_epoch({"validation_clean_accuracy": 0.0})
    assert rates == pytest.approx([0.5 / 3, 1 / 3, 0.5, 0.5])


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "sgd"])
def test_optimizers_are_those_of_torch(name):
    model, made = network(), learner(optimizer={"name": name}, weight_decay=0.1, learning_rate=0.01)
    kinds = {"adam": "Adam", "adamw": "AdamW", "adamax": "Adamax", "sgd": "SGD"}
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    theirs = getattr(torch.optim, kinds[name])(
        model.parameters(), lr=0.01, weight_decay=0.1, **momentum
    )
    for _ in range(3):
        theirs.zero_grad()
        scaled(model, IMAGES, TARGETS, seed=0)["loss"].backward()
        theirs.step()
    for ours, their in zip(steps(made, 3), model.parameters(), strict=True):
        assert torch.allclose(ours, their, atol=1e-7)


def test_average_against_its_formula():
    model = nn.BatchNorm1d(2)
    average, expected = Average(model, 0.5), model.weight.detach().clone()
    for count in range(1, 8):
        with torch.no_grad():
            model.weight += count
            model.running_mean += 1
        average.update(model)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(average.model.weight, expected)
    assert torch.equal(average.model.running_mean, model.running_mean)
    assert not average.model.training


def test_what_is_judged_and_kept_is_the_average():
    made = learner(average_decay=0.9)
    steps(made, BATCHES)
    made.finish_epoch({"validation_clean_accuracy": 0.5})
    averaged = copy.deepcopy(made.judged.state_dict())
    assert not torch.equal(averaged["1.weight"], made.model[1].weight)
    assert torch.equal(made.finish()[1].weight, averaged["1.weight"])


def test_the_best_epoch_is_kept_and_patience_ends_training():
    made, weights = learner(patience=2), []
    for accuracy in (0.3, 0.6, 0.6, 0.5):
        assert not made.done
        steps(made, BATCHES)
        weights.append(made.model[1].weight.detach().clone())
        made.finish_epoch({"validation_clean_accuracy": accuracy})
    assert made.done and made.kept == {"validation_clean_accuracy": 0.6, "epoch": 2}
    assert torch.equal(made.finish()[1].weight, weights[1])


def test_half_the_precision_learns_nearly_the_same():
    exact, lower = steps(learner(), 1), steps(learner(precision="bfloat16"), 1)
    assert lower[0].dtype == torch.float32
    assert not torch.equal(exact[0], lower[0])
    assert torch.allclose(exact[0], lower[0], atol=0.05)


def test_objectives_learn_which_epoch_it_is():
    seen = []

    def watching(model, images, targets, *, seed, epoch):
        seen.append((seed, epoch))
        return scaled(model, images, targets, seed=seed)

    made = learner(Objective("watching", watching), seed=5)
    for _ in range(2):
        steps(made, BATCHES)
        made.finish_epoch({"validation_clean_accuracy": 0.0})
    assert seen == [(5, 0), (6, 0), (7, 1), (8, 1)]


def test_an_image_has_its_own_chance_in_whatever_part_of_a_batch_it_comes():
    drawn = []

    def drawing(model, images, targets, *, seed: int | torch.Tensor):
        drawn.append(seed)
        return scaled(model, images, targets, seed=0)

    for parts in ([0, 1, 2, 3, 4, 5], [0, 1], [2, 3, 4, 5]):
        made = learner(Objective("drawing", drawing), seed=5)
        made.step(IMAGES[parts], TARGETS[parts], rows=ROWS[parts])
    whole, first, rest = drawn
    assert torch.equal(whole, torch.cat([first, rest])) and len(set(whole.tolist())) == 6
    steps(made, 1)
    assert not torch.equal(drawn[-1], whole)


def test_a_figure_that_only_some_batches_have_is_averaged_over_these():
    gates = iter([1.0, 0.0])

    def gated(model, images, targets, *, seed):
        gate = next(gates)
        figures = {"classification": torch.tensor(3.0)} if gate else {}
        return {**scaled(model, images, targets, seed=seed), "gate": torch.tensor(gate), **figures}

    made = learner(Objective("gated", gated))
    steps(made, 1)
    made.step(IMAGES[:2], TARGETS[:2], rows=ROWS[:2])
    curves = made.finish_epoch({"validation_clean_accuracy": 0.0})
    assert curves["gate"] == pytest.approx(6 / 8) and curves["classification"] == 3


def test_speed_is_that_of_the_batches_without_what_comes_after_them(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made = learner()
    made.begin_epoch()
    steps(made, 2)
    now = 4.0
    made.end_batches()
    now = 100.0
    curves = made.finish_epoch({"validation_clean_accuracy": 0.0})
    assert curves["images_per_second"] == 2 * len(IMAGES) / 4


def test_the_density_of_masks_is_a_curve():
    budget = {"epsilon": 0.1, "low_epsilon": 0.05, "rule": {"name": "quantile", "share": 0.25}}
    attack = {"name": "pgd", "steps": 1, "keep": "last"}
    made = with_lenet(objective={"name": "part", "attack": attack, "budget": budget})
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    made.step(images, TARGETS, rows=ROWS)
    curves = made.finish_epoch({"validation_clean_accuracy": 0.0})
    assert curves["mask_density"] == pytest.approx(0.25, abs=1e-5)


def with_lenet(**changes):
    spec = ModelSpec(
        backbone={"name": "lenet5"},
        classes=("a", "b", "c"),
        image_shape=(1, 28, 28),
        mean=(0.5,),
        deviation=(0.5,),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(spec)
    settings = replace(SETTINGS, warmup_epochs=1.0, schedule={"name": "cosine"}, **changes)
    chosen = choose_objective(changes["objective"]) if "objective" in changes else None
    made = Learner(model, chosen or Objective("scaled", scaled), settings, BATCHES)
    made.keep({"validation_clean_accuracy": 0.0})
    return made


def test_the_head_has_a_rate_of_its_own_through_warm_up_and_schedule():
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    rates = {"learning_rate": 0.01, "head_learning_rate": 0.1}
    made, alike, seen = with_lenet(**rates), with_lenet(learning_rate=0.01), []
    for number in range(4):
        if number == 3:  # goes on from here as if it had not been put down
            state, made = copy.deepcopy(made.state()), with_lenet(**rates)
            made.restore(state)
        made.step(images, TARGETS, rows=ROWS)
        seen.append([group["lr"] for group in made.state()["optimizer"]["param_groups"]])
        if number == 0:
            first = {name: p.detach().clone() for name, p in made.model.named_parameters()}
            alike.step(images, TARGETS, rows=ROWS)
        if number % 2:
            curves = made.finish_epoch({"validation_clean_accuracy": 0.0})
    shares = [0.5 * 1, (1 + math.cos(math.pi / 8)) / 2]  # warm-up over two batches, half a cosine
    shares += [(1 + math.cos(math.pi * n / 8)) / 2 for n in (2, 3)]
    for pair, share in zip(seen, shares, strict=True):
        assert pair == pytest.approx([0.01 * share, 0.1 * share])
    assert curves["head_learning_rate"] == pytest.approx(10 * curves["learning_rate"])
    start = dict(with_lenet().model.named_parameters())
    for name, weight in alike.model.named_parameters():
        factor = 10 if "dense4" in name else 1
        moved, slower = first[name] - start[name], weight - start[name]
        assert torch.allclose(moved, factor * slower, atol=1e-6), name


def test_a_backbone_that_names_no_head():
    made = with_lenet()
    made.model.backbone.head_layers = ()
    with pytest.raises(ValueError, match="head_learning_rate fits no LeNet5: it does not name"):
        grouped(made.model, replace(SETTINGS, head_learning_rate=0.1))


def test_free_replays_each_batch_and_goes_on_where_it_was():
    free = {"name": "free", "epsilon": 0.1, "replays": 3}
    whole, first = (learner(choose_objective(free)) for _ in range(2))
    expected = steps(whole, 2)
    steps(first, 1)
    state, second = copy.deepcopy(first.state()), learner(choose_objective(free))
    second.restore(state)
    assert float(state["own"][0]["objective"]["perturbation"].abs().max()) > 0
    for weight, value in zip(steps(second, 1), expected, strict=True):
        assert torch.equal(weight, value)
    once = steps(learner(choose_objective({**free, "replays": 1})), 2)
    assert not torch.allclose(once[0], expected[0])


def test_a_collapse_ends_training_with_the_epoch_before():
    made, weights = learner(), []
    for robust, several in ((0.3, 0.3), (0.4, 0.35), (0.6, 0.1)):
        assert not made.done
        steps(made, BATCHES)
        weights.append(made.model[1].weight.detach().clone())
        made.watch(Look(fgsm_accuracy=0.5, pgd_accuracy=several))
        made.finish_epoch({"validation_clean_accuracy": robust})
    assert made.done and "catastrophic overfitting" in made.ended
    assert made.kept["epoch"] == 2
    assert torch.equal(made.finish()[1].weight, weights[1])
