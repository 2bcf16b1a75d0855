"""Compact equals gated in every family of networks, whatever is open."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.models.build import Model, ModelSpec, build_model
from components.models.checkpoint import load_checkpoint, save_checkpoint
from components.models.costs import costs
from components.models.dependent_gates import add_dependent_gates, dependent_gates_in
from components.models.vgg import FULL_WIDTHS as VGG_WIDTHS
from components.pruning.compact import ClosedLayer, compact_model, hold_last_units
from components.pruning.gates import gate_model, gate_widths, gates_in, total_kl

AS_PUBLISHED = {"threshold": 1e-3, "initial_keep_probability": None}
NARROW_VGG = [6, 7, 8, 7, 6, 7, 8, 7, 6, 7, 8, 7, 9, 9, 8]
# What each family is tried with, and the side of its images.
FAMILIES = {
    "resnet18": ({"widths": [3, 4, 5, 6]}, 12),
    "preact_resnet18": ({"widths": [3, 4, 5, 6]}, 12),
    "preact_resnet18, normalised": ({"widths": [3, 4, 5, 6], "final_norm": True}, 12),
    "wide_resnet": ({"depth": 10, "widen_factor": 1}, 12),
    "se_resnet": ({"widths": [3, 4, 33, 34], "head": "linear"}, 32),
    "se_resnet, 50": ({"depth": 50, "widths": [2, 3, 4, 5], "head": "linear"}, 24),
    "convnext_tiny": ({"depths": [1, 1, 1, 1], "widths": [4, 5, 6, 7]}, 32),
    "vgg16": ({"widths": NARROW_VGG}, 32),
    "vgg16, after": ({"widths": NARROW_VGG}, 32),
    "timm, depthwise": ({"model": "test_efficientnet"}, 32),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(family, defences=()) -> Model:
    """Build a network whose parameters and running averages are nothing special."""
    options, side = FAMILIES[family]
    spec = ModelSpec(
        backbone={"name": family.split(",")[0], **options},
        defences=defences,
        classes=tuple("01234"),
        image_shape=(3, side, side),
        mean=(0.5,) * 3,
        deviation=(0.25,) * 3,
    )
    model = build_model(spec)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        # So that what images say reaches the logits.
        model.train()(nn.functional.interpolate(torch.rand(8, 3, 4, 4), size=(side, side)))
    for norm in norms:
        norm.running_mean += torch.randn_like(norm.running_mean) / 4
    return model.eval()


def gate_at_random(family, model, share, seed):
    torch.manual_seed(seed)
    gated = gate_model(model, **AS_PUBLISHED, after_activation=family == "vgg16, after").eval()
    for gate in gates_in(gated).values():
        is_open = torch.rand(len(gate.raw_a)) < share
        raw_a = torch.where(is_open, torch.rand(len(is_open)) * 4, torch.tensor(-9.0))
        gate.raw_a.data.copy_(raw_a)
    hold_last_units(gated)
    return gated.double()  # so that nothing is left but what is really different


def images(family):
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    return nn.functional.interpolate(coarse, size=(FAMILIES[family][1],) * 2)


@torch.no_grad()
def difference(one, other, family):
    """Give the largest difference of a logit, as a share of what images make of one."""
    found, expected = one(images(family)), other(images(family))
    spread = (expected - expected.mean(0)).abs().max().clamp(min=1e-9)
    return float((found - expected).abs().max() / spread)


@every_family
def test_compact_equals_gated_and_so_does_its_own_compaction(family, tmp_path):
    @settings(max_examples=3, deadline=None)
    @given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
    def check(first, second, seed):
        gated = gate_at_random(family, build(family), first, seed)
        once = compact_model(gated)
        assert difference(once, gated, family) < 1e-5
        save_checkpoint(once, tmp_path, provenance={})
        loaded = load_checkpoint(tmp_path)
        assert loaded.spec == once.spec
        saved = {
            name: value.to(loaded.state_dict()[name]) for name, value in once.state_dict().items()
        }
        assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
        assert gate_widths(loaded) == gate_widths(once)
        gated_again = gate_at_random(family, loaded, second, seed + 1)
        twice = compact_model(gated_again)
        assert difference(twice, gated_again, family) < 1e-5
        assert costs(twice)["parameters"] <= costs(once)["parameters"]

    check()


@every_family
def test_all_open_keeps_every_unit(family):
    model = build(family)
    gated = gate_at_random(family, model, 1.0, 0)
    logits = gated(images(family))
    assert (logits[0] - logits[1]).abs().max() > 1e-8  # images say something
    compact = compact_model(gated)
    assert sum(p.numel() for p in compact.parameters()) == costs(model)["parameters"]
    assert {type(module) for module in compact.modules()} == {type(m) for m in model.modules()}
    assert not gates_in(compact)
    assert difference(compact, gated, family) < 1e-5


@every_family
def test_a_closed_layer_is_refused_by_name_or_kept_by_its_last_unit(family):
    gated = gate_at_random(family, build(family), 1.0, 0)
    gates = gates_in(gated)
    name = [name for name, gate in gates.items() if len(gate.raw_a) > 1][-1]
    gates[name].raw_a.data.fill_(-9)
    gates[name].raw_a.data[1] = -8.5
    with pytest.raises(ClosedLayer, match=name):
        compact_model(gated)
    hold_last_units(gated)
    compact = compact_model(gated)
    assert gate_widths(compact).get(name, 1) == 1
    assert difference(compact, gated, family) < 1e-5


def test_constants_of_a_wholly_closed_convolution_are_kept():
    gated = gate_at_random("vgg16", build("vgg16"), 1.0, 0)
    gates_in(gated)["conv3"].raw_a.data.fill_(-9)
    backbone = gated.backbone
    nn.init.ones_(backbone.bn3.bias)
    nn.init.zeros_(backbone.bn3.running_mean)
    compact = compact_model(gated)
    assert compact.backbone.widths == (6, 7, 1, *NARROW_VGG[3:])
    assert difference(compact, gated, "vgg16") < 1e-5
    compact.backbone.bn3.bias.data.zero_()  # as if it gave nothing
    assert difference(compact, gated, "vgg16") > 1e-3


def test_closed_channels_that_give_nothing_cost_nothing():
    model = build("vgg16")
    for number in range(1, 14):
        norm = model.backbone.get_submodule(f"bn{number}")
        nn.init.zeros_(norm.bias)
        nn.init.zeros_(norm.running_mean)
    gated = gate_at_random("vgg16", model, 0.5, 3)
    open_units = {name: int(gate.is_open().sum()) for name, gate in gates_in(gated).items()}
    compact = compact_model(gated)
    assert all(gate_widths(compact)[f"conv{n}"] == open_units[f"conv{n}"] for n in range(1, 13))
    assert gate_widths(compact)["conv13"] == gate_widths(compact)["dense14"]
    assert difference(compact, gated, "vgg16") < 1e-5


@torch.no_grad()
def test_gates_of_vgg_are_before_batchnorm_or_after_activation():
    model = build("vgg16").double()
    for after in (False, True):
        gated = gate_model(model, **AS_PUBLISHED, after_activation=after).eval()
        keep = {name: gate.mask()[0] for name, gate in gates_in(gated).items()}
        named = dict(model.backbone.named_modules())
        hidden = (images("vgg16") - 0.5) / 0.25
        for number in range(1, 14):
            hidden = named[f"conv{number}"](hidden)
            hidden = hidden if after else hidden * keep[f"conv{number}"]
            hidden = named[f"bn{number}"](hidden).relu()
            reader = f"conv{number + 1}" if number < 13 else "dense14"
            hidden = hidden * keep[reader] if after and number < 13 else hidden
            hidden = model.backbone.after[number - 1](hidden)
        dense = named["dense14"](hidden.flatten(1) * keep["dense14"])
        expected = named["dense15"](named["bn14"](dense).relu() * keep["dense15"])
        assert torch.allclose(gated(images("vgg16")), expected)


def test_full_vgg_has_the_published_gates():
    spec = dataclasses.replace(build("vgg16").spec, backbone={"name": "vgg16"})
    with torch.device("meta"):
        full = build_model(spec)
    assert sum(gate_widths(full).values()) == sum(VGG_WIDTHS) == 5248
    gates = gates_in(gate_model(build("vgg16"), **AS_PUBLISHED))
    initial = {name: round(gate.raw_a[0].item(), 2) for name, gate in gates.items()}
    assert initial == {**{f"conv{n}": 2.0 for n in range(1, 14)}, "dense14": -1.0, "dense15": -1.0}
    per_unit = {name: gate.kl().item() / len(gate.raw_a) for name, gate in gates.items()}
    whole = sum(width * kl for width, kl in zip(VGG_WIDTHS, per_unit.values(), strict=True))
    assert whole == pytest.approx(45_088, abs=1)


def test_residual_channels_share_a_gate_and_its_draw():
    gated = gate_model(build("resnet18"), **AS_PUBLISHED).train()
    gates = gates_in(gated)
    assert len(gates) == 12 and gate_widths(gated) == gate_widths(build("resnet18"))
    shared = gates["layer1.0.conv1"]
    layers = [gated.backbone.get_submodule(name) for name in ("layer1.0.conv1", "layer2.0.conv1")]
    assert all(layer.gate is shared for layer in layers)
    seen = []
    for layer in layers:
        layer.layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    for block in gated.backbone.layer1:  # so that both layers read the same
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
    for _ in range(2):
        gated(images("resnet18").float())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])
    assert shared.drawn is None
    assert len(list(shared.parameters())) == 2
    names = [name for name, parameter in gated.named_parameters() if parameter is shared.raw_a]
    assert len(names) == 1


def test_gates_may_weigh_their_divergences():
    gates = gates_in(gate_model(build("resnet18"), **AS_PUBLISHED))
    plain = {name: gate.kl().item() for name, gate in gates.items()}
    scales = {"layer1.0.conv1": 40.0, "layer4.1.conv2": 0.0}
    expected = sum(kl * scales.get(name, 1) for name, kl in plain.items())
    assert total_kl(gates, scales).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"there are no gates \['conv9'\], expected some of"):
        total_kl(gates, {"conv9": 2.0})


def test_a_feature_pyramid_decoder_is_refused():
    model = build("resnet18", defences=({"name": "feature_pyramid_decoder"},))
    with pytest.raises(ValueError, match="a model with a feature_pyramid_decoder cannot be pruned"):
        gate_model(model, **AS_PUBLISHED)


@every_family
def test_gates_that_depend_on_the_image_fit_and_are_loaded_again(family, tmp_path):
    model = build(family)
    add_dependent_gates(model.backbone, model.spec.image_shape)
    backbone = {**model.spec.backbone, "dependent_gates": True}
    model.spec = dataclasses.replace(model.spec, backbone=backbone)
    batch = images(family).float()
    model.train()(batch)  # so that their averages are of this network
    save_checkpoint(model.eval(), tmp_path, provenance={})
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded(batch), model(batch))
    for gate in dependent_gates_in(loaded.backbone).values():
        gate.scale.data.zero_()  # then each unit is kept by its shift, whatever the image
        gate.shift.data.fill_(1)
    plain = build_model(dataclasses.replace(model.spec, backbone=build(family).spec.backbone))
    plain.load_state_dict(
        {
            name.replace(".layer.", "."): value
            for name, value in model.state_dict().items()
            if ".gate." not in name
        }
    )
    assert torch.allclose(loaded(batch), plain.eval()(batch), atol=1e-4)
