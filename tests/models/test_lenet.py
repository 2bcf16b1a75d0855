"""LeNet-5 as Madaan et al., 2020, describe it, full and narrowed."""

import math

import pytest
import torch

from components.models.lenet import LeNet5, lenet5


def images(count=3):
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_size_and_features_of_the_published_network():
    network = lenet5(10, 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == 431_080
    shapes = []
    network.relu.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape[1:])))
    assert network(images()).shape == (3, 10)
    assert shapes == [(20, 24, 24), (50, 8, 8), (500,)]
    assert sum(network.widths) == 1_370


def test_weights_start_from_glorot_s_bounds_and_biases_from_zero():
    torch.manual_seed(0)
    fans = {"conv1": (25, 500), "conv2": (500, 1250), "dense3": (800, 500), "dense4": (500, 10)}
    network = lenet5(10, 1)
    for name, fan in fans.items():
        layer, bound = network.get_submodule(name), math.sqrt(6 / sum(fan))
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)
        assert not layer.bias.any()


@torch.no_grad()
def test_positions_say_which_of_the_flattened_features_are_read():
    """Reading three positions is reading all with the other columns of dense3 at zero."""
    torch.manual_seed(0)
    narrow = lenet5(10, 1, widths=(4, 6, 3, 50))
    first_three = narrow(images())
    read = torch.tensor([2, 40, 95])
    narrow.positions.copy_(read)
    wide = lenet5(10, 1, widths=(4, 6, 96, 50))
    kept = {k: v for k, v in narrow.state_dict().items() if k not in ("positions", "dense3.weight")}
    wide.load_state_dict(kept, strict=False)
    wide.dense3.weight.zero_()
    wide.dense3.weight[:, read] = narrow.dense3.weight
    assert torch.allclose(narrow(images()), wide(images()), atol=1e-6)
    assert (narrow(images()) - first_three).abs().max() > 1e-3


def test_positions_travel_with_the_weights():
    torch.manual_seed(0)
    narrow, twin = (lenet5(10, 1, widths=(4, 6, 3, 50)) for _ in range(2))
    before = twin(images())
    narrow.positions.copy_(torch.tensor([2, 40, 95]))
    twin.load_state_dict(narrow.state_dict())
    assert torch.equal(twin(images()), narrow(images()))
    assert not torch.allclose(twin(images()), before, atol=1e-3)


def test_published_gates_and_features_are_there():
    network = lenet5(10, 1, widths=(4, 6, 90, 12))
    units = network.declare_units()
    assert [(group.name, group.count) for group in units] == [
        ("conv1", 4),
        ("conv2", 6),
        ("dense3", 90),
        ("dense4", 12),
    ]
    assert [group.places[0].side for group in units] == ["output", "output", "input", "input"]
    assert network.widths == (4, 6, 90, 12)
    for name in LeNet5.latent_features:
        network.get_submodule(name)


@pytest.mark.parametrize(
    "widths", [(20, 50, 800), (20, 50, 801, 500), (0, 50, 800, 500), (20, 50, 800, 500, 10), ()]
)
def test_wrong_widths(widths):
    with pytest.raises(ValueError, match="four positive numbers, the third at most 16 times"):
        lenet5(10, 1, widths=widths)


@pytest.mark.parametrize("size", [(32, 32), (27, 28)])
def test_wrong_size_of_images(size):
    with pytest.raises(ValueError, match="lenet5 takes images of 28 x 28 pixels, got"):
        lenet5(10, 1)(torch.zeros(1, 1, *size))
