"""ADMM's steps recomputed, and what is zero at the end of them."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.models.build import ModelSpec, build_model
from components.models.checkpoint import load_checkpoint, save_checkpoint
from components.pruning.admm import AdmmPruning
from components.pruning.config import PruningConfig
from components.pruning.measures import zero_weights
from components.pruning.prune import prune

SETTINGS = PruningConfig(attack=None, vulnerability_weight=0.0, epochs=1, batch_size=16)


@pytest.fixture
def batch(images):
    return images, functional.one_hot(torch.arange(16) % 10).float()


def layers_of(model):
    return [m for m in model.backbone.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def largest(value, share):
    """Keep so much of a tensor, by sorting."""
    order = value.abs().flatten().argsort(descending=True)
    kept = torch.zeros_like(value).flatten()
    kept[order[: round(share * len(kept))]] = 1
    return value * kept.view_as(value)


def test_renewals_follow_the_equations(make_model, batch):
    pruning = AdmmPruning(
        make_model(), SETTINGS, 160, 10, sparsity=0.7, renewals=3, tuning_share=0.4
    )
    weights = [layer.weight for layer in layers_of(pruning.model)]
    sparse = [largest(w.detach(), 0.3) for w in weights]
    dual = [torch.zeros_like(w) for w in weights]
    for number in range(6):  # the cut comes after these; Z and U are renewed after every second
        before = float(pruning.step(*batch, number)["distance"])
        at_step = sum(
            float((w.detach() - z).square().sum()) for w, z in zip(weights, sparse, strict=True)
        )
        if number % 2:
            shifted = [w.detach() + u for w, u in zip(weights, dual, strict=True)]
            sparse = [largest(v, 0.3) for v in shifted]
            dual = [v - z for v, z in zip(shifted, sparse, strict=True)]
            state = pruning.state()
            for name, expected in (("sparse", sparse), ("dual", dual)):
                for value, wanted in zip(state[name], expected, strict=True):
                    assert torch.allclose(value, wanted, atol=1e-6)
        else:
            assert before == pytest.approx(at_step, rel=1e-4)


def test_the_penalty_draws_weights_to_their_sparse_image(make_model, batch):
    settings, distances = dataclasses.replace(SETTINGS, learning_rate=1e-2), {}
    for penalty in (0.0, 10.0):
        torch.manual_seed(0)
        pruning = AdmmPruning(make_model(), settings, 1600, 100, penalty=penalty)
        for number in range(30):
            distances[penalty] = float(pruning.step(*batch, number)["distance"])
    assert distances[10.0] < distances[0.0] / 2


def test_weights_that_are_cut_stay_zero_and_no_others(make_model, batch):
    pruning = AdmmPruning(make_model(), SETTINGS, 160, 10, sparsity=0.8, tuning_share=0.5)
    for number in range(10):
        pruning.step(*batch, number)
    pruned, kept = pruning.finish()
    assert kept is pruned
    for layer in layers_of(kept):
        share = float((layer.weight == 0).float().mean())
        assert share == pytest.approx(0.8, abs=1 / layer.weight.numel())
    assert zero_weights(kept) == pytest.approx(0.8, abs=0.01)


def test_sparse_is_not_smaller(make_model, shards, tmp_path):
    save_checkpoint(make_model(), tmp_path / "initial", provenance={})
    settings = dataclasses.replace(SETTINGS, method={"name": "admm", "sparsity": 0.75})
    figures = prune(settings, data=shards, initial=tmp_path / "initial", target=tmp_path / "pruned")
    assert figures["zero_weights"] == pytest.approx(0.75, abs=0.01)
    assert figures["sparsity"] == 0 and figures["flops_ratio"] == figures["size_ratio"] == 1
    assert figures["max_logit_difference"] == 0


def test_units_are_cut_out(make_model, shards, tmp_path):
    save_checkpoint(make_model(), tmp_path / "initial", provenance={})
    method = {"name": "admm", "structure": "units", "sparsity": 0.5}
    figures = prune(
        dataclasses.replace(SETTINGS, method=method),
        data=shards,
        initial=tmp_path / "initial",
        target=tmp_path / "pruned",
    )
    conv1, conv2, flat, dense = load_checkpoint(tmp_path / "pruned").backbone.widths
    assert (conv1, dense) == (2, 6)  # half of each; positions live only in channels that live
    assert 1 <= conv2 <= 3 and 1 <= flat <= 48
    assert figures["flops_ratio"] > 1 and figures["max_logit_difference"] <= 1e-5


def test_units_that_an_addition_joins_go_together():
    model = build_model(
        ModelSpec(
            backbone={"name": "resnet18", "widths": [4, 4, 8, 8]},
            classes=tuple("0123456789"),
            image_shape=(3, 16, 16),
            mean=(0.5,) * 3,
            deviation=(0.3,) * 3,
        )
    ).eval()
    images = torch.rand(4, 3, 16, 16)
    pruning = AdmmPruning(model, SETTINGS, 4, 1, structure="units", sparsity=0.5)
    pruning.step(images, functional.one_hot(torch.arange(4), 10).float(), 0)
    pruned, compact = pruning.finish()
    with torch.no_grad():
        assert torch.allclose(pruned(images), compact(images), atol=1e-5)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (pruned, compact))
    assert after < before / 2


@pytest.mark.parametrize("wrong", [{"sparsity": 1.0}, {"tuning_share": 0.0}, {"penalty": -1.0}])
def test_numbers_out_of_range_are_refused(make_model, wrong):
    with pytest.raises(ValueError, match="sparsity and tuning_share must lie between 0 and 1"):
        AdmmPruning(make_model(), SETTINGS, 16, 1, **wrong)
