"""Reference counts of Madaan et al., 2020, for the widths published with Lee et al., 2018."""

import pytest
import torch
from timm.layers import get_act_layer
from torch import nn

from components.models.build import ModelSpec, build_model
from components.models.costs import (
    costs,
    count_flops,
    count_memory,
    count_parameters,
    measure_activation_memory,
    measure_latency,
)
from components.models.lenet import FULL_WIDTHS, lenet5

IMAGE = (1, 28, 28)


def lenet_with(*widths):
    return lenet5(10, 1, widths=widths)


def test_full_lenet_costs_what_is_published():
    spec = ModelSpec(
        backbone={"name": "lenet5"},
        classes=tuple("0123456789"),
        image_shape=IMAGE,
        mean=(0.1,),
        deviation=(0.3,),
    )
    assert costs(build_model(spec)) == {"parameters": 431_080, "flops": 4_615_940}
    assert count_memory(lenet_with(*FULL_WIDTHS), IMAGE) == 477_410


@pytest.mark.parametrize(
    ("widths", "flops_ratio", "memory_percent"),
    [((13, 20, 99, 30), 3.751, 9.496), ((13, 25, 156, 54), 3.182, 11.034)],
)
def test_pruned_lenet_has_the_published_ratios(widths, flops_ratio, memory_percent):
    model = lenet_with(*widths)
    assert 4_615_940 / count_flops(model, IMAGE) == pytest.approx(flops_ratio, abs=5e-4)
    assert 100 * count_memory(model, IMAGE) / 477_410 == pytest.approx(memory_percent, abs=5e-4)


def test_pruned_lenet_has_the_published_counts():
    model = lenet_with(13, 25, 156, 54)
    assert count_flops(model, IMAGE) == 1_450_558
    assert count_memory(model, IMAGE) == 52_678


def test_groups_strides_and_missing_biases_are_counted_as_computed():
    conv = nn.Conv2d(4, 8, 3, groups=4, stride=2, bias=False)
    assert count_flops(conv, (4, 9, 9)) == 8 * 4 * 4 * (2 * 9 - 1)
    pooled = nn.Sequential(conv, nn.AvgPool2d((2, 4)))
    assert count_flops(pooled, (4, 9, 9)) == count_flops(conv, (4, 9, 9)) + 8 * 2 * 1 * 8


@pytest.mark.parametrize(
    "layer",
    [nn.ELU(), nn.GELU(), nn.Hardtanh(), nn.PReLU(), nn.ReLU6(), nn.Sigmoid(), nn.SiLU(), nn.Tanh()]
    + [get_act_layer(name)() for name in ("gelu", "gelu_tanh", "hard_mish", "sigmoid", "swish")],
    ids=lambda layer: f"{type(layer).__module__}.{type(layer).__name__}",
)
def test_every_activation_costs_as_much_as_relu(layer):
    conv = nn.Conv2d(3, 5, 1)
    rest = count_flops(conv, (3, 4, 6))
    assert count_flops(nn.Sequential(conv, layer), (3, 4, 6)) == rest + 5 * 4 * 6
    assert count_flops(nn.Sequential(conv, nn.Softmax(1)), (3, 4, 6)) == rest


@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions(bias):
    """Where kernels do not overlap, each output is one product per channel that comes in."""
    apart = nn.ConvTranspose2d(6, 8, 2, stride=2, bias=bias)
    assert count_flops(apart, (6, 5, 7)) == 8 * 10 * 14 * (2 * 6 - 1 + bias)
    grouped = nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2, bias=bias)
    assert count_flops(grouped, (6, 5, 7)) == 8 * 10 * 14 * (2 * 3 - 1 + bias)
    # Of one pixel, it is a dense layer; of more, three pixels in a row meet inside.
    dense = nn.ConvTranspose2d(6, 8, 3, bias=bias)
    assert count_flops(dense, (6, 1, 1)) == 8 * 9 * (2 * 6 - 1 + bias)
    met = [1, 2, 3, 3, 2, 1]
    expected = sum(8 * 3 * (2 * 6 * pixels - 1 + bias) for pixels in met)
    assert count_flops(dense, (6, 1, 4)) == expected


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(1), lenet_with(2, 3, 48, 5).eval()).train()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, IMAGE)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_parameters_are_counted_once_where_layers_share_them():
    layer = nn.Linear(3, 2)
    assert count_parameters(nn.Sequential(layer, layer)) == 8


def test_most_bytes_of_feature_maps_at_one_time():
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten())
    network = nn.Sequential(*layers, nn.Linear(256, 10))
    # The first convolution's output and its activation, of 64 positions and 4 bytes each.
    for count in (1, 3):
        images = torch.rand(count, 3, 8, 8)
        assert measure_activation_memory(network, images) == count * 64 * 4 * (8 + 8)
    wide = nn.Sequential(*layers, nn.Linear(256, 3000), nn.ReLU())
    assert measure_activation_memory(wide, torch.rand(1, 3, 8, 8)) == 4 * (3000 + 3000)
    assert measure_activation_memory(nn.Flatten(), torch.rand(1, 3, 8, 8)) == 0


def test_latency_is_of_the_whole_batch():
    layer = nn.Linear(700, 700).train()
    one, many = (measure_latency(layer, torch.rand(size, 700)) for size in (1, 4000))
    assert 0 < one < many
    assert layer.training and layer.weight.requires_grad
