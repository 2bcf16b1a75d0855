import dataclasses
import json

import pytest
import torch
from torch.nn import functional
from torch.optim import Adam

from components.models.checkpoint import load_checkpoint, read_provenance, save_checkpoint
from components.models.costs import costs
from components.pruning import prune as prune_file
from components.pruning.admm import AdmmPruning
from components.pruning.config import PruningConfig
from components.pruning.gate_learning import pruning_losses, weigh_losses
from components.pruning.gated import GatedPruning
from components.pruning.gates import gate_model, gates_in
from components.pruning.prune import GATES, InexactPruning, prune
from components.pruning.steps import set_rates

PGD = {"name": "pgd", "epsilon": 0.1, "steps": 2, "keep": "last"}
FAITHFUL = PruningConfig(attack=PGD, kl_weight=0.5, vulnerability_weight=1e-2)
QUICK = dataclasses.replace(
    FAITHFUL, epochs=2, gate_learning_rate=0.8, initial_keep_probability=0.3, batch_size=16
)


@pytest.fixture
def gated(make_model):
    return gate_model(make_model(), threshold=1e-3, initial_keep_probability=0.5).train()


@pytest.fixture
def batch(images):
    adversarial = (images + 0.1 * torch.randn_like(images).sign()).clamp(0, 1)
    return images, adversarial, functional.one_hot(torch.arange(16) % 10).float()


@pytest.fixture
def initial(make_model, tmp_path):
    save_checkpoint(make_model(), tmp_path / "initial", provenance={})
    return tmp_path / "initial"


def gradients(loss, gated):
    parameters = [p for gate in gates_in(gated).values() for p in gate.parameters()]
    return torch.autograd.grad(loss, parameters, retain_graph=True)


def same(one, other):
    return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one, other, strict=True))


def test_faithful_gates_see_neither_clean_loss_nor_vulnerability(gated, batch):
    losses = pruning_losses(gated, *batch, FAITHFUL)
    gate_loss, _ = weigh_losses(losses, FAITHFUL, 100, epoch=1.0)
    expected = gradients(losses["adversarial_loss"] + 0.5 * losses["kl"] / 100, gated)
    assert same(gradients(gate_loss, gated), expected)
    cut = {name: value.detach() for name, value in losses.items()}
    unseen = {**losses, "clean_loss": 7 * cut["clean_loss"], "vulnerability": cut["vulnerability"]}
    assert same(gradients(weigh_losses(unseen, FAITHFUL, 100, epoch=1.0)[0], gated), expected)


def test_gates_on_the_mixture_see_the_clean_loss(gated, batch):
    losses = pruning_losses(gated, *batch, FAITHFUL)
    mixture = (losses["clean_loss"] + 2 * losses["adversarial_loss"]) / 3
    settings = dataclasses.replace(FAITHFUL, gate_loss="mixture", kl_weight=0.0)
    gate_loss, _ = weigh_losses(losses, settings, 100, epoch=1.0)
    assert torch.equal(gate_loss, mixture)


def test_weights_minimise_the_mixture_and_the_vulnerability(gated, batch):
    losses = pruning_losses(gated, *batch, FAITHFUL)
    _, weight_loss = weigh_losses(losses, FAITHFUL, 100, epoch=1.0)
    mixture = (losses["clean_loss"] + 2 * losses["adversarial_loss"]) / 3
    assert torch.allclose(weight_loss, mixture + 1e-2 * losses["vulnerability"])
    weight = gated.backbone.conv1.layer.weight
    (gradient,) = torch.autograd.grad(losses["vulnerability"], weight)
    assert float(gradient.abs().max()) > 0  # the published code loses it on the first feature


@pytest.mark.parametrize("method", [GatedPruning, AdmmPruning])
def test_a_copy_is_attacked_much_like_the_model(method, make_model, batch):
    images, _, targets = batch
    model = make_model()

    def adversarial_loss(precision):
        settings = dataclasses.replace(FAITHFUL, epochs=10, precision=precision)
        torch.manual_seed(0)
        losses = method(model, settings, 16, 1).step(images, targets, 0)
        return losses["adversarial_loss"].item()

    plain = adversarial_loss(None)
    assert adversarial_loss("float32") == pytest.approx(plain, rel=1e-3)
    assert adversarial_loss("bfloat16") == pytest.approx(plain, rel=0.02)
    assert adversarial_loss("bfloat16") != plain


def test_losses_are_those_of_two_separate_passes(gated, batch):
    images, adversarial, targets = batch
    gated.eval()
    losses = pruning_losses(gated, *batch, FAITHFUL)
    clean = functional.cross_entropy(gated(images), targets)
    attacked = functional.cross_entropy(gated(adversarial), targets)
    assert torch.allclose(losses["clean_loss"], clean, atol=1e-6)
    assert torch.allclose(losses["adversarial_loss"], attacked, atol=1e-6)


def test_identical_images_lose_the_same_and_are_not_vulnerable(gated, images):
    losses = pruning_losses(gated, images, images, torch.eye(10)[:1].repeat(16, 1), FAITHFUL)
    assert torch.allclose(losses["clean_loss"], losses["adversarial_loss"], atol=1e-6)
    assert float(losses["vulnerability"].detach()) < 1e-6


def test_gates_may_also_see_what_the_weights_see(gated, batch):
    settings = dataclasses.replace(FAITHFUL, gate_loss="mixture_and_vulnerability")
    losses = pruning_losses(gated, *batch, settings)
    gate_loss, weight_loss = weigh_losses(losses, settings, 100, epoch=1.0)
    assert torch.allclose(gate_loss, weight_loss + 0.5 * losses["kl"] / 100)


def test_without_an_attack_gates_and_weights_descend_the_clean_loss(gated, batch):
    settings = PruningConfig(attack=None, kl_weight=1.0, vulnerability_weight=0.0)
    losses = pruning_losses(gated, batch[0], None, batch[2], settings)
    assert losses.keys() == {"clean_loss", "kl"}
    gate_loss, weight_loss = weigh_losses(losses, settings, 50, epoch=1.0)
    assert torch.equal(weight_loss, losses["clean_loss"])
    assert torch.allclose(gate_loss, losses["clean_loss"] + losses["kl"] / 50)


@pytest.mark.parametrize(("epoch", "share"), [(0.5, 0.25), (2.0, 1.0), (9.0, 1.0)])
def test_the_divergence_warms_up(gated, batch, epoch, share):
    settings = dataclasses.replace(FAITHFUL, kl_warmup_epochs=2.0)
    losses = pruning_losses(gated, *batch, settings)
    gate_loss, _ = weigh_losses(losses, settings, 100, epoch=epoch)
    expected = losses["adversarial_loss"] + share * 0.5 * losses["kl"] / 100
    assert torch.allclose(gate_loss, expected)


def test_gates_wait_for_the_weights(make_model, batch):
    images, _, targets = batch
    settings = dataclasses.replace(FAITHFUL, epochs=5, gate_delay_epochs=1.5)
    method = GatedPruning(make_model(), settings, 16, 2)

    def figures():
        gates = [gate.raw_a.data.clone() for gate in gates_in(method.model).values()]
        return torch.cat(gates), method.model.backbone.conv1.layer.weight.data.clone()

    moved = []
    for number in range(5):
        before = figures()
        method.step(images, targets, number)
        moved.append([not torch.equal(a, b) for a, b in zip(before, figures(), strict=True)])
    assert moved == [[False, True]] * 3 + [[True, True]] * 2


@pytest.mark.parametrize("forwards", ["joint", "separate"])
@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_identical_images_move_features_only_where_each_draws_its_own_gates(
    gated, images, forwards, noise
):
    settings = dataclasses.replace(FAITHFUL, forwards=forwards, noise=noise)
    targets = torch.eye(10)[:1].repeat(16, 1)
    losses = pruning_losses(gated, images, images, targets, settings)
    moved = float(losses["vulnerability"].detach())
    assert moved < 1e-6 if noise == "shared" else moved > 1e-3


def test_one_batch_or_two_lose_the_same(gated, batch):
    gated.eval()
    joint, separate = (
        pruning_losses(gated, *batch, dataclasses.replace(FAITHFUL, forwards=forwards))
        for forwards in ("joint", "separate")
    )
    for name, value in joint.items():
        assert torch.allclose(value, separate[name], atol=1e-6), name


def test_a_skipped_first_feature_counts_without_a_gradient(gated, batch):
    gated.eval()
    weight = gated.backbone.dense3.layer.weight  # behind the first two features
    early = gated.backbone.conv1.layer.weight
    values, slopes = {}, {}
    for skip in (False, True):
        settings = dataclasses.replace(FAITHFUL, skip_first_feature=skip)
        moved = pruning_losses(gated, *batch, settings)["vulnerability"]
        values[skip] = float(moved.detach())
        slopes[skip] = torch.autograd.grad(moved, [weight, early])
    assert values[True] == values[False]
    assert torch.allclose(slopes[True][0], slopes[False][0])
    assert not torch.allclose(slopes[True][1], slopes[False][1])


def test_a_gate_may_weigh_more_than_others(gated, batch, make_model):
    gates = gates_in(gated)
    plain = pruning_losses(gated, *batch, FAITHFUL)["kl"]
    scaled = pruning_losses(gated, *batch, FAITHFUL, kl_scales={"conv1": 40})["kl"]
    assert torch.allclose(scaled, plain + 39 * gates["conv1"].kl())
    with pytest.raises(ValueError, match="there are no gates"):
        GatedPruning(make_model(), FAITHFUL, 100, 10, kl_scales={"conv9": 2.0})


def test_learning_rates_fall_to_a_tenth_at_shares_of_all_steps():
    settings = dataclasses.replace(FAITHFUL, drops=(0.5, 0.8))
    optimizer, rates = Adam([torch.zeros(1, requires_grad=True)]), []
    for step in range(10):
        set_rates([(optimizer, 1.0)], settings, step, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


@pytest.mark.parametrize(("kl_weight", "closes"), [(1e6, True), (0.0, False)])
def test_divergence_alone_closes_gates(gated, batch, kl_weight, closes):
    settings = dataclasses.replace(FAITHFUL, kl_weight=kl_weight)
    gates = list(gates_in(gated).values())
    optimizer = Adam([p for gate in gates for p in gate.parameters()], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        weigh_losses(pruning_losses(gated, *batch, FAITHFUL), settings, 100, epoch=1.0)[
            0
        ].backward()
        optimizer.step()
    is_open = torch.cat([gate.is_open() for gate in gates])
    assert not bool(is_open.any()) if closes else bool(is_open.all())


def test_a_pruned_model_is_narrower_reported_and_pruned_again(initial, shards, tmp_path):
    original = load_checkpoint(initial)
    figures = prune(QUICK, data=shards, initial=initial, target=tmp_path / "once")
    pruned = load_checkpoint(tmp_path / "once")
    before, after = costs(original), costs(pruned)
    widths = pruned.backbone.widths
    assert 0 < figures["sparsity"] == pytest.approx(1 - sum(widths) / sum(original.backbone.widths))
    assert 1 < figures["flops_ratio"] == before["flops"] / after["flops"]
    assert 1 < figures["size_ratio"] == before["parameters"] / after["parameters"]
    assert figures["max_logit_difference"] <= 1e-4
    layers = ("conv1", "conv2", "dense3", "dense4")
    assert [figures[f"units.{layer}"] for layer in layers] == list(widths)
    assert figures["zero_weights"] == 0
    probabilities = json.loads((tmp_path / "once" / GATES).read_text())
    assert {name: len(units) for name, units in probabilities.items()} == dict(
        zip(layers, original.backbone.widths, strict=True)
    )
    provenance = read_provenance(tmp_path / "once")
    assert provenance["settings"] == json.loads(QUICK.to_json())
    assert provenance["figures"].items() >= figures.items()
    again = prune(QUICK, data=shards, initial=tmp_path / "once", target=tmp_path / "twice")
    assert again["sparsity"] > 0
    assert sum(load_checkpoint(tmp_path / "twice").backbone.widths) < sum(widths)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attack": None}, "vulnerability_weight must be 0 where nothing attacks"),
        ({"attack": PGD, "drops": [1.5]}, "drops must lie between 0 and 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        PruningConfig(**wrong)


def test_the_same_seed_prunes_the_same(initial, shards, tmp_path):
    settings = dataclasses.replace(QUICK, epochs=1)
    for name in ("one", "other"):
        torch.rand(3)  # what was drawn before does not matter
        prune(settings, data=shards, initial=initial, target=tmp_path / name)
    one, other = (load_checkpoint(tmp_path / name).state_dict() for name in ("one", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_closing_everything_leaves_one_unit_per_layer(initial, shards, tmp_path):
    settings = dataclasses.replace(QUICK, kl_weight=1e6, gate_learning_rate=0.5)
    figures = prune(settings, data=shards, initial=initial, target=tmp_path / "pruned")
    assert load_checkpoint(tmp_path / "pruned").backbone.widths == (1, 1, 1, 1)
    assert figures["flops_ratio"] > 1


def test_curves_are_logged_per_epoch(initial, shards, tmp_path, monkeypatch):
    logged = {}

    def log(_run, values, step):
        logged[step] = dict(values)

    monkeypatch.setattr(type(prune_file.UNTRACKED), "metrics", log)
    prune(QUICK, data=shards, initial=initial, target=tmp_path / "pruned")
    assert sorted(logged) == [1, 2]
    names = {"clean_loss", "adversarial_loss", "kl", "vulnerability", "open_units.conv1"}
    assert names <= set(logged[1])
    assert logged[2]["kl"] < logged[1]["kl"]
    assert 0 < logged[1]["expected_units.dense3"] < 96


def test_a_narrower_model_that_decides_otherwise_is_not_saved(
    initial, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr(prune_file, "_LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(InexactPruning, match="must be within"):
        prune(
            dataclasses.replace(QUICK, epochs=0),
            data=shards,
            initial=initial,
            target=tmp_path / "pruned",
        )
    assert not (tmp_path / "pruned").exists()
