"""Every entry of BACKBONES gives logits, one image at a time, from seeded weights."""

import pytest
import torch
from torch.nn import functional

from components.attacks.acceleration import search_copy
from components.attacks.gradients import untouched
from components.choose import choose
from components.models import BACKBONES
from components.models.build import ModelSpec, build_model
from components.models.checkpoint import load_checkpoint, save_checkpoint

NARROW = {"depths": [1, 1, 2, 1], "widths": [8, 12, 16, 24]}
# What each backbone is tried with, narrow enough to be quick, and the size of the images.
CASES = {
    "convnext_tiny": ({**NARROW}, 33),
    "convnext_tiny, decoded": ({**NARROW, "head": "ml_decoder"}, 33),
    "lenet5": ({}, 28),
    "preact_resnet18": ({"widths": [4, 6, 8, 10]}, 20),
    "preact_resnet18, normalised": ({"widths": [4, 6, 8, 10], "final_norm": True}, 20),
    "resnet18": ({"widths": [4, 6, 8, 10]}, 20),
    "se_resnet": ({"widths": [4, 6, 32, 34]}, 35),
    "se_resnet, 34": ({"depth": 34, "head": "linear", "widths": [4, 6, 8, 10]}, 35),
    "se_resnet, 50": ({"depth": 50, "head": "linear", "widths": [4, 6, 8, 10]}, 35),
    "timm": ({"model": "test_efficientnet"}, 28),
    "timm, with patches": ({"model": "test_vit"}, 32),
    "vgg16": ({"widths": [*range(4, 16), 8, 8, 20]}, 32),
    "wide_resnet": ({"depth": 16, "widen_factor": 1}, 20),
}
every_backbone = pytest.mark.parametrize("case", CASES)


def words(case):
    return {"name": case.split(",")[0], **CASES[case][0]}


def build(case, num_classes=7, in_channels=3, seed=0):
    """Build it behind its normalisation, as a model for images of its size."""
    spec = ModelSpec(
        backbone=words(case),
        classes=tuple(map(str, range(num_classes))),
        image_shape=(in_channels, CASES[case][1], CASES[case][1]),
        mean=(0.5,) * in_channels,
        deviation=(0.25,) * in_channels,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(spec)


def images(case, in_channels=3, count=4):
    shape = (count, in_channels, CASES[case][1], CASES[case][1])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def settled(case, **options):
    """Give a model in evaluation mode whose running averages are those of some images."""
    model = build(case, **options).train()
    with torch.random.fork_rng(), torch.no_grad():
        for _ in range(5):
            model(images(case))
    return model.eval()


def test_every_backbone_is_tried():
    assert {words(case)["name"] for case in CASES} == set(BACKBONES)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("num_classes", [2, 10])
@every_backbone
def test_one_logit_per_class(case, num_classes, in_channels):
    model = build(case, num_classes, in_channels).train()
    logits = model(images(case, in_channels))
    assert logits.shape == (4, num_classes) and logits.isfinite().all()


@every_backbone
def test_gradient_reaches_pixels_and_every_weight(case):
    model, pixels = build(case).train(), images(case).requires_grad_(True)
    functional.cross_entropy(model(pixels), torch.arange(4)).backward()
    assert pixels.grad.flatten(1).any(1).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_backbone
@torch.no_grad()
def test_in_evaluation_mode_images_do_not_influence_each_other(case):
    model = settled(case)
    together = model(images(case))
    assert torch.equal(model(images(case)), together)
    alone = torch.cat([model(image[None]) for image in images(case)])
    assert torch.allclose(alone, together, atol=1e-5)


@every_backbone
def test_weights_come_from_the_global_generator(case):
    first, second, other = (build(case, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_backbone
def test_a_checkpoint_brings_it_back_bit_for_bit(case, tmp_path):
    model = settled(case)
    save_checkpoint(model, tmp_path, provenance={})
    loaded = load_checkpoint(tmp_path)
    saved, restored = model.state_dict(), loaded.state_dict()
    assert saved.keys() == restored.keys() and loaded.spec == model.spec
    assert all(torch.equal(saved[key], restored[key]) for key in saved)
    with untouched(model), untouched(loaded):
        assert torch.equal(model(images(case)), loaded(images(case)))


@every_backbone
@torch.no_grad()
def test_neither_the_order_of_memory_nor_half_the_precision_changes_what_it_says(case):
    model = settled(case)
    expected = model(images(case))
    for memory_format in (torch.channels_last, torch.contiguous_format):
        pixels = images(case).contiguous(memory_format=memory_format)
        assert torch.allclose(model.to(memory_format=memory_format)(pixels), expected, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = model(images(case))
    assert (lower.float() - expected).abs().max() < 0.1 * expected.std()


@every_backbone
def test_training_runs_at_half_the_precision(case):
    model, pixels = build(case).train(), images(case).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = functional.cross_entropy(model(pixels), torch.arange(4))
    loss.backward()
    assert pixels.grad.isfinite().all() and pixels.grad.any()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


@every_backbone
def test_attacks_may_search_on_a_copy(case):
    model = settled(case)
    found = search_copy(model, images(case), precision="float32")
    assert found.agreement == 1 and found.error < 1e-4


@every_backbone
def test_named_features_and_head_are_there(case):
    backbone = build(case).backbone
    for name in getattr(backbone, "latent_features", ()):
        backbone.get_submodule(name)
    state = backbone.state_dict()
    for layer in getattr(backbone, "head_layers", ()):
        assert any(name == layer or name.startswith(f"{layer}.") for name in state)
    other = build(case, num_classes=150).backbone.state_dict()
    changed = {name for name in state if state[name].shape != other[name].shape}
    head = getattr(backbone, "head_layers", ("classifier", "head"))
    assert changed and all(name.startswith(head) for name in changed)


def test_unknown_name():
    with pytest.raises(
        ValueError, match=r"unknown name 'lenet6', expected one of \['convnext_tiny"
    ):
        choose(BACKBONES, "lenet6")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"name": "resnet18", "widths": [4, 4, 4]}, "widths must be 4 positive numbers, got"),
        ({"name": "preact_resnet18", "widths": [0, 4, 4, 4]}, "widths must be 4 positive numbers"),
        ({"name": "se_resnet", "widths": []}, "widths must be 4 positive numbers, got"),
        ({"name": "se_resnet", "depth": 101}, r"depth must be one of \['18', '34', '50'\]"),
        ({"name": "se_resnet", "head": "mlp"}, r"head must be one of \['linear', 'ml_decoder'\]"),
        ({"name": "convnext_tiny", "widths": [96]}, "widths must be 4 positive numbers, got"),
        ({"name": "convnext_tiny", "depths": [3, 3, 0, 3]}, "depths must be 4 positive numbers"),
        ({"name": "convnext_tiny", "head": "linear"}, r"head must be one of \['ml_decoder', 'mlp'"),
        ({"name": "convnext_tiny", "pretrained": True, **NARROW}, "no other depths and widths"),
        ({"name": "wide_resnet", "depth": 35}, "depth must be 10, 16, 22, 28, 34 and so on"),
        ({"name": "wide_resnet", "widen_factor": 0}, "widen_factor must be at least 1, got 0"),
        ({"name": "wide_resnet", "dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"name": "vgg16", "widths": [4] * 14}, "fifteen positive numbers, the thirteenth and"),
        ({"name": "vgg16", "widths": [*[4] * 12, 5, 4, 4]}, "fifteen positive numbers"),
    ],
)
def test_wrong_options(choice, message):
    with pytest.raises(ValueError, match=message):
        choose(BACKBONES, choice)(10, 3)


@pytest.mark.parametrize(
    ("case", "size", "message"),
    [
        ("convnext_tiny", 31, r"at least 32 x 32 pixels, got \(1, 3, 31, 31\)"),
        ("vgg16", 64, r"vgg16 takes images of 32 x 32 pixels, got \(1, 3, 64, 64\)"),
    ],
)
def test_images_that_are_too_small_or_of_another_size(case, size, message):
    with pytest.raises(ValueError, match=message):
        build(case).eval()(torch.zeros(1, 3, size, size))
