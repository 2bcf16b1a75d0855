"""A narrower network from words, and what is wrong with words."""

import pytest
import torch
from torch import nn

from components.models.build import ModelSpec, build_model
from components.models.tracing import find_units
from components.models.units import cut_units, narrow, units_of

IMAGE = (3, 16, 16)
RESNET = {"name": "resnet18", "widths": [4, 6, 8, 10]}
MOBILE = {"name": "timm", "model": "test_efficientnet"}  # small, with depthwise convolutions


def build(choice, image_shape=IMAGE):
    spec = ModelSpec(
        backbone=choice,
        classes=("no", "yes"),
        image_shape=image_shape,
        mean=(0.5,) * 3,
        deviation=(1,) * 3,
    )
    return build_model(spec).eval()


@pytest.mark.parametrize("choice", [RESNET, MOBILE])
def test_words_with_units_build_the_narrower_network(choice):
    full = build(choice).backbone
    counts = {group.name: 1 + group.count // 3 for group in find_units(full, IMAGE)}
    model = build({**choice, "units": counts})
    assert {group.name: group.count for group in units_of(model.backbone)} == counts
    assert model.spec.backbone == {**choice, "units": counts}
    assert model(torch.rand(2, *IMAGE)).shape == (2, 2)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        if isinstance(layer, nn.BatchNorm2d):
            assert len(layer.weight) == len(layer.running_var) == layer.num_features
    # A depthwise convolution of which one channel is left still is one.
    least = build({**choice, "units": dict.fromkeys(counts, 1)})
    assert [group.name for group in find_units(least.backbone, IMAGE)] == list(counts)


def test_cutting_keeps_what_it_is_told_to():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    old = {name: value.clone() for name, value in network.state_dict().items()}
    (group,) = find_units(network, (3, 8, 8))
    (left,) = cut_units(network, (group,), {group.name: torch.tensor([1, 3])})
    assert left.count == 2
    assert torch.equal(network[0].weight, old["0.weight"][[1, 3]])
    expected = old["2.weight"].view(2, 4, 36)[:, [1, 3]].flatten(1)
    assert torch.equal(network[2].weight, expected)
    assert torch.equal(network[2].bias, old["2.bias"])


@pytest.mark.parametrize("name", ["lenet5", "vgg16"])
def test_backbones_with_widths_of_their_own_take_no_units(name):
    size = 28 if name == "lenet5" else 32
    words = {"name": name, "units": {"conv1": 20, "conv2": 10}}
    with pytest.raises(ValueError, match=r"units fit no (LeNet5|VGG16), .*; give those as widths"):
        build(words, (3, size, size))


def test_wrong_words_about_units():
    network = build(RESNET).backbone
    units = find_units(network, IMAGE)
    counts = {group.name: group.count for group in units}
    with pytest.raises(ValueError, match=r"units must name \['layer1.0.conv1', .*'conv7'\] differ"):
        narrow(network, units, {**counts, "conv7": 3})
    for count in (0, 5):
        with pytest.raises(
            ValueError, match=rf"units of layer1.0.conv1 .* in \[1, 4\], got {count}"
        ):
            narrow(network, units, {**counts, "layer1.0.conv1": count})
    for wrong in (3, {"layer1.0.conv1": "4"}):
        with pytest.raises(ValueError, match="units must be numbers by gate"):
            build({**RESNET, "units": wrong})
