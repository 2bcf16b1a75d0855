"""VGG16 as Madaan et al., 2020, describe it, full and narrowed."""

import math

import pytest
import torch
from torch import nn

from components.models.build import ModelSpec, build_model
from components.models.vgg import VGG16, vgg16
from components.pruning.gates import gate_model

NARROW = (3, 4, 5, 6, 7, 8, 9, 10, 9, 8, 7, 6, 5, 5, 11)
POOLED = {2, 4, 7, 10, 13}
DROPPED = {1: 0.3, 3: 0.4, 5: 0.4, 6: 0.4, 8: 0.4, 9: 0.4, 11: 0.4, 12: 0.4}


def images(count=3):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def settled(network):
    with torch.no_grad():
        for _ in range(3):
            network.train()(images(8))
    return network.eval()


@pytest.mark.parametrize(("num_classes", "parameters"), [(10, 14_991_946), (100, 15_038_116)])
def test_published_sizes(num_classes, parameters):
    with torch.device("meta"):
        network = vgg16(num_classes, 3)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(network.widths) == 5_248


@torch.no_grad()
def test_the_published_order_of_layers():
    network = settled(vgg16(10, 3, widths=NARROW))
    named = dict(network.named_modules())
    features = images()
    for number in range(1, 14):
        features = named[f"bn{number}"](named[f"conv{number}"](features)).relu()
        if number in POOLED:
            features = nn.functional.max_pool2d(features, 2)
    dense = named["bn14"](named["dense14"](features.reshape(3, 5))).relu()
    assert torch.allclose(network(images()), named["dense15"](dense), atol=1e-6)


def test_constants_of_normalisation_and_dropout():
    network = vgg16(10, 3, widths=NARROW)
    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert len(norms) == 14 and {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    drops = {n: m.p for n, m in enumerate(network.after, 1) if isinstance(m, nn.Dropout)}
    assert drops == DROPPED and network.dropout.p == 0.5


def test_fifteen_features():
    network = vgg16(10, 3, widths=NARROW)
    shapes = []
    for name in VGG16.latent_features:
        network.get_submodule(name).register_forward_hook(
            lambda *call: shapes.append(tuple(call[2].shape[1:]))
        )
    network(images())
    sizes = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    convolutions = [(width, size, size) for width, size in zip(NARROW, sizes, strict=False)]
    assert shapes == [*convolutions, (11,), (11,)]


def test_published_gates_are_before_normalisation_and_dense_layers():
    network = vgg16(10, 3, widths=NARROW)
    units = network.declare_units()
    assert tuple(group.count for group in units) == network.widths == NARROW
    assert [group.places[0].layer for group in units] == [
        *(f"conv{number}" for number in range(1, 14)),
        "dense14",
        "dense15",
    ]
    assert [group.norm for group in units[:13]] == [f"bn{number}" for number in range(1, 14)]


def test_weights_and_biases_start_from_glorot_s_bounds():
    torch.manual_seed(0)
    network = vgg16(10, 3)
    for name, fans in {"conv3": (576, 1152), "dense14": (512, 512), "dense15": (512, 10)}.items():
        layer, bound = network.get_submodule(name), math.sqrt(6 / sum(fans))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
    bound = math.sqrt(6 / (512 + 512))
    assert 0.9 * bound < network.dense14.bias.abs().max() <= bound


def test_gates_take_the_place_of_the_dropout_in_front_of_dense_layers():
    spec = ModelSpec(
        backbone={"name": "vgg16", "widths": list(NARROW)},
        classes=tuple("0123456789"),
        image_shape=(3, 32, 32),
        mean=(0.5, 0.5, 0.5),
        deviation=(0.2, 0.2, 0.2),
    )
    model = build_model(spec)
    gated = gate_model(model, threshold=1e-3, initial_keep_probability=None)
    for network in (model, gated):
        network.backbone.dropout.p = 1.0  # of all that it is given
        network.train()
    assert model(images()).std(0).max() == 0 < gated(images()).std(0).min()
