"""Attachment: levels, places and heads of the networks of the table and of timm."""

import pytest
import timm
import torch
from torch import nn

from components.defences.attachment import find_head, find_levels, resolve, survey
from components.defences.defended import honest_view
from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.models import BACKBONES

OURS = [
    ("lenet5", {}, 1, 28, [(24, 24), (8, 8)], "dense4"),
    ("vgg16", {}, 3, 32, [(16, 16), (8, 8), (4, 4), (2, 2)], "dense15"),
    ("resnet18", {}, 3, 64, [(64, 64), (32, 32), (16, 16), (8, 8)], "linear"),
    ("preact_resnet18", {}, 3, 64, [(64, 64), (32, 32), (16, 16), (8, 8)], "linear"),
    (
        "wide_resnet",
        {"depth": 10, "widen_factor": 1},
        3,
        64,
        [(64, 64), (32, 32), (16, 16)],
        "linear",
    ),
    ("se_resnet", {"head": "linear"}, 3, 64, [(16, 16), (8, 8), (4, 4), (2, 2)], "head.2"),
    ("convnext_tiny", {}, 3, 64, [(16, 16), (8, 8), (4, 4), (2, 2)], "head.classify"),
]
TIMM = {
    "resnet18": [64, 128, 256, 512],
    "resnext50_32x4d": [256, 512, 1024, 2048],
    "vgg16_bn": [256, 512, 512, 512],
    "densenet121": [256, 512, 1024, 1024],
    "efficientnet_b0": [24, 40, 112, 320],
    "mobilenetv3_large_100": [24, 40, 112, 960],
    "regnety_016": [48, 120, 336, 888],
    "convnext_tiny": [96, 192, 384, 768],
    "resnetv2_50": [256, 512, 1024, 2048],
    "dla34": [64, 128, 256, 512],
}


@pytest.mark.parametrize(
    ("name", "options", "channels", "size", "maps", "head"),
    OURS,
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_pyramids_of_our_networks(name, options, channels, size, maps, head):
    with torch.device("meta"):
        network = nn.Sequential(nn.Identity(), BACKBONES[name](10, channels, **options))
        found = survey(network)
        assert found.image_shape == (channels, size, size) and found.num_classes == 10
        assert [level.shape[1:] for level in find_levels(network, found, ())] == maps
        assert find_head(network) == f"1.{head}"
        decoder = FeaturePyramidDecoder(network, width=4)
        parts = decoder.parts(torch.zeros(2, channels, size, size))
    assert parts.front.restored.shape == (2, channels, size, size)
    assert parts.logits.shape == (2, 10)


@pytest.mark.parametrize("name", TIMM)
def test_pyramids_of_timm_are_the_published_ones(name):
    """The four points from a reduction of 4 on; images of any size come back as large."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=10)
        decoder = FeaturePyramidDecoder(network, width=4, bound="spectral_tanh")
        assert [level.shape[0] for level in decoder.levels] == TIMM[name]
        assert [level.doublings for level in decoder.levels] == [2, 3, 4, 5]
        size = 96 if name == "dla34" else 97
        parts = decoder.parts(torch.zeros(2, 3, size, size))
    assert parts.front.restored.shape == (2, 3, size, size)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "resnetv2_50"])
def test_gradients_of_timm_networks_are_finite(name):
    torch.manual_seed(0)
    decoder = FeaturePyramidDecoder(timm.create_model(name, num_classes=10), width=16).train()
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    decoder.parts(images).unbounded.square().sum().backward()
    assert images.grad.isfinite().all() and images.grad.any()


def test_networks_without_a_pyramid_are_refused():
    for name, message in [
        ("swin_tiny_patch4_window7_224", "channels last"),
        ("vit_tiny_patch16_224", "does not give one feature map of each image"),
    ]:
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            FeaturePyramidDecoder(timm.create_model(name))
    with pytest.raises(ValueError, match="needs a network with convolutions"):
        FeaturePyramidDecoder(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))


def test_a_size_that_the_network_does_not_take():
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="no images of 40 pixels a side; giv"),
    ):
        FeaturePyramidDecoder(BACKBONES["lenet5"](10, 1), image_size=40)


def test_blocks_are_known_by_the_end_of_their_names():
    network = nn.Sequential(nn.Identity(), BACKBONES["resnet18"](4, 3, widths=[2, 2, 2, 2]))
    assert resolve(network, "layer2") == resolve(network, "1.layer2") == "1.layer2"
    assert resolve(network, "layer2.0.conv1") == "1.layer2.0.conv1"
    with pytest.raises(ValueError, match=r"no block 'layer9'; near its surface are .*'layer4'"):
        resolve(network, "layer9")


def test_a_survey_leaves_no_trace():
    network = BACKBONES["resnet18"](4, 3, widths=[2, 2, 2, 2]).train()
    network.bn1.eval()
    modes = [part.training for part in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    survey(network)
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(part._forward_hooks for part in network.modules())


def test_maps_that_are_changed_in_place_are_kept_as_they_were():
    def network(in_place):
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, 2, 1)
        relus = nn.ReLU(inplace=in_place), nn.ReLU(inplace=in_place)
        end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
        return nn.Sequential(first, relus[0], second, relus[1], *end)

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits, changed = [], []
    for in_place in (True, False):
        torch.manual_seed(1)
        decoder = FeaturePyramidDecoder(network(in_place), width=4, levels=["0", "2"]).eval()
        changed.append([level.overwritten for level in decoder.levels])
        logits.append(honest_view(decoder)(images))
    assert changed == [[True, True], [False, False]] and torch.equal(*logits)
