"""Residual networks: published sizes, and the same function as timm's with the same weights."""

import math
import re
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from components.models.preact_resnet import preact_resnet18
from components.models.resnet import resnet18
from components.models.se_resnet import se_resnet
from components.models.wide_resnet import wide_resnet


def size(build, num_classes=10, **options):
    with torch.device("meta"):
        network = build(num_classes, 3, **options)
    return sum(parameter.numel() for parameter in network.parameters())


def images(pixels):
    return torch.rand(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))


def same_weights(network, twin, renamed):
    """Give both networks the same state, that of the first under the names of the second."""
    torch.manual_seed(0)
    state = {
        name: torch.rand_like(value) + 0.5 if value.ndim == 1 else value
        for name, value in network.state_dict().items()
        if "num_batches" not in name
    }
    network.load_state_dict(state, strict=False)
    wanted = {name: v for name, v in twin.state_dict().items() if "num_batches" not in name}
    theirs = {}
    for name, value in state.items():
        for old, new in renamed.items():
            name = re.sub(old, new, name)
        theirs[name] = value.view_as(wanted[name])
    assert not any(wanted[name].any() for name in wanted.keys() - theirs.keys())
    twin.load_state_dict(theirs, strict=False)


@torch.no_grad()
def assert_same_function(network, twin, pixels):
    batch = images(pixels).double()
    found, expected = (each.double().eval()(batch) for each in (network, twin))
    assert (found - expected).abs().max() < 1e-9 * (expected[0] - expected[1]).abs().max()


def test_published_sizes():
    assert size(resnet18) == 11_173_962
    assert size(preact_resnet18) == 11_171_146
    assert size(preact_resnet18, final_norm=True) == 11_171_146 + 2 * 512
    assert size(wide_resnet) == 46_160_474


@pytest.mark.parametrize(("depth", "factor"), [(34, 10), (28, 10), (70, 16), (16, 1)])
def test_size_of_wide_networks_by_formula(depth, factor):
    blocks, widths = (depth - 4) // 6, [16, 16 * factor, 32 * factor, 64 * factor]
    expected = 3 * 9 * 16 + 2 * widths[3] + 10 * widths[3] + 10
    for before, width in pairwise(widths):
        first = 9 * before * width + 9 * width**2 + 2 * before + 2 * width
        first += before * width if before != width else 0
        expected += first + (blocks - 1) * (18 * width**2 + 4 * width)
    assert size(wide_resnet, depth=depth, widen_factor=factor) == expected


@pytest.mark.parametrize(
    ("depth", "linear", "channels"),
    [(18, 11_776_552, 512), (34, 21_954_856, 512), (50, 28_071_976, 2048)],
)
def test_size_of_squeezed_networks(depth, linear, channels):
    """Of the deeper two, timm's legacy networks less the biases of their squeeze layers."""
    assert size(se_resnet, 1000, depth=depth, head="linear") == linear
    decoder = {512: 5_940_244, 2048: 7_119_892}[channels] - 20 * 768
    expected = linear - 1000 * (channels + 1) + decoder
    assert size(se_resnet, 20, depth=depth) == expected


def test_resnet18_is_timm_s_but_for_its_stem():
    network, twin = resnet18(5, 3), timm.create_model("resnet18", num_classes=5)
    twin.conv1, twin.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    same_weights(network, twin, {"shortcut": "downsample", "linear": "fc"})
    assert_same_function(network, twin, 20)


def test_preact_resnet18_is_timm_s_but_for_its_stem():
    network = preact_resnet18(5, 3, final_norm=True)
    twin = timm.create_model("resnetv2_18", num_classes=5)
    twin.stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    renamed = {f"^layer{stage + 1}": f"stages.{stage}.blocks" for stage in range(4)}
    renamed |= {"^conv1": "stem", "^linear": "head.fc", "bn": "norm"}
    same_weights(network, twin, {**renamed, "shortcut.0": "downsample.conv"})
    assert_same_function(network, twin, 20)


def test_se_resnet50_is_timm_s_without_biases():
    network = se_resnet(5, 3, depth=50, head="linear")
    twin = timm.create_model("seresnet50", num_classes=5)
    for name, parameter in twin.named_parameters():
        if ".se." in name and name.endswith("bias"):
            nn.init.zeros_(parameter)
    renamed = {"scale.squeeze": "se.fc1", "scale.excite": "se.fc2"}
    same_weights(network, twin, {**renamed, "shortcut": "downsample", "head.2": "fc"})
    assert_same_function(network, twin, 70)


@pytest.mark.parametrize(
    ("build", "pixels", "shape"),
    [
        (resnet18, 32, (512, 4, 4)),
        (resnet18, 64, (512, 8, 8)),
        (preact_resnet18, 32, (512, 4, 4)),
        (wide_resnet, 32, (640, 8, 8)),
        (se_resnet, 224, (512, 7, 7)),
    ],
)
def test_last_feature_map(build, pixels, shape):
    with torch.device("meta"):
        network, image = build(10, 3).eval(), torch.zeros(1, 3, pixels, pixels)
        assert network.forward_features(image).shape == (1, *shape)
        assert network(image).shape == (1, 10)


@pytest.mark.parametrize("build", [resnet18, wide_resnet, preact_resnet18])
@torch.no_grad()
def test_logits_are_a_dense_layer_on_the_mean_of_the_last_feature_map(build):
    options = {"depth": 10, "widen_factor": 1} if build is wide_resnet else {"widths": (4, 5, 6, 7)}
    network = build(3, 3, **options).eval()
    maps = network.forward_features(images(24))
    expected = maps.mean((2, 3)) @ network.linear.weight.T + network.linear.bias
    assert torch.allclose(network(images(24)), expected, atol=1e-6)


def test_wide_networks_end_in_relu_and_drop_between_convolutions():
    network = wide_resnet(3, 3, depth=16, widen_factor=2, dropout=0.3)
    assert network.forward_features(images(24)).min() == 0
    drops = [part.p for part in network.modules() if isinstance(part, nn.Dropout)]
    assert drops == [0.3] * 6


@pytest.mark.parametrize("build", [wide_resnet, se_resnet])
def test_convolutions_start_from_what_each_channel_feeds(build):
    torch.manual_seed(0)
    network = build(3, 3, depth=16, widen_factor=4) if build is wide_resnet else build(3, 3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 3000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            deviation = math.sqrt(2 / fan_out)
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.05)
