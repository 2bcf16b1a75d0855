"""Every entry of BACKBONES gives logits, one image at a time, from seeded weights."""

import pytest
import torch

from components.attacks.gradients import untouched
from components.choose import choose
from components.models import BACKBONES

# What each backbone is tried with; one that needs no options may be left out.
OPTIONS = {"timm": {"model": "test_efficientnet"}}
SIZE = 28
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def build(name, num_classes=7, in_channels=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return choose(BACKBONES, {"name": name, **OPTIONS.get(name, {})})(num_classes, in_channels)


def images(in_channels=3):
    return torch.rand(4, in_channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("num_classes", [2, 10])
@every_backbone
def test_one_logit_per_class(name, num_classes, in_channels):
    network = build(name, num_classes, in_channels).train()
    logits = network(images(in_channels))
    assert logits.shape == (4, num_classes) and logits.isfinite().all()


@every_backbone
def test_gradient_reaches_pixels_and_every_weight(name):
    network, pixels = build(name).train(), images().requires_grad_(True)
    torch.nn.functional.cross_entropy(network(pixels), torch.arange(4)).backward()
    assert pixels.grad.flatten(1).any(1).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@every_backbone
@torch.no_grad()
def test_in_evaluation_mode_images_do_not_influence_each_other(name):
    network = build(name).eval()
    together = network(images())
    assert torch.equal(network(images()), together)
    alone = torch.cat([network(image[None]) for image in images()])
    assert torch.allclose(alone, together, atol=1e-5)


@every_backbone
def test_weights_come_from_the_global_generator(name):
    first, second, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_backbone
def test_state_moves_to_a_twin(name):
    network, twin = build(name).eval(), build(name, seed=1).eval()
    twin.load_state_dict(network.state_dict())
    with untouched(network), untouched(twin):
        assert torch.equal(twin(images()), network(images()))


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown name 'lenet6', expected one of \['lenet5'"):
        choose(BACKBONES, "lenet6")


def test_unknown_timm_model():
    with pytest.raises(ValueError, match="timm has no model 'resnet5000'; timm"):
        choose(BACKBONES, {"name": "timm", "model": "resnet5000"})(10, 3)


def test_timm_needs_a_model():
    with pytest.raises(ValueError, match="'timm' needs the option 'model'"):
        choose(BACKBONES, "timm")
