"""Units that belong together, in networks small enough to know them by looking."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.models.tracing import find_units

IMAGE = (3, 8, 8)


class Toy(nn.Module):
    """Two convolutions and a dense layer; what happens between them is up to the test."""

    def __init__(self, between, **layers):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.dense = nn.Linear(6, 5)
        self.between = between
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, images):
        return self.dense(self.between(self, self.conv1(images)).mean((2, 3)))


def groups(network, shape=IMAGE):
    found = find_units(network, shape)
    return {group.name: (group.count, {place.layer for place in group.places}) for group in found}


def cuts(network, name):
    (group,) = (group for group in find_units(network, IMAGE) if group.name == name)
    return {tuple(cut) for cut in group.cuts}


def test_a_chain_has_a_group_before_each_layer_that_reads():
    chain = Toy(lambda toy, features: toy.conv2(features.relu()))
    assert groups(chain) == {"conv2": (6, {"conv2"}), "dense": (6, {"dense"})}
    assert cuts(chain, "conv2") == {
        ("conv1.weight", 0, 1),
        ("conv1.bias", 0, 1),
        ("conv2.weight", 1, 1),
    }


def test_an_addition_joins_and_everything_that_reads_the_sum_is_gated():
    residual = Toy(lambda toy, features: features + toy.conv2(functional.relu(features)))
    assert groups(residual) == {"conv2": (6, {"conv2", "dense"})}
    assert ("conv2.weight", 0, 1) in cuts(residual, "conv2")
    assert ("conv2.weight", 1, 1) in cuts(residual, "conv2")


def test_norm_scale_and_depthwise_convolution_are_cut_with_the_units_they_touch():
    def between(toy, features):
        return toy.conv2(toy.deep(toy.norm(features)) * toy.scale)

    deep = nn.Conv2d(6, 6, 3, groups=6)
    scale = nn.Parameter(torch.ones(6, 1, 1))
    toy = Toy(between, deep=deep, norm=nn.BatchNorm2d(6), scale=scale)
    assert groups(toy)["conv2"] == (6, {"conv2"})
    values = ("weight", "bias", "running_mean", "running_var")
    touched = {("scale", 0, 1), ("deep.weight", 0, 1), ("deep.bias", 0, 1)}
    assert touched | {(f"norm.{value}", 0, 1) for value in values} <= cuts(toy, "conv2")


def test_excitation_joins_what_it_scales_with_what_it_gives():
    def between(toy, features):
        scale = toy.excite(toy.squeeze(features.mean((2, 3))).relu()).sigmoid()
        return toy.conv2(features * scale[:, :, None, None])

    toy = Toy(between, squeeze=nn.Linear(6, 2), excite=nn.Linear(2, 6))
    assert groups(toy) == {
        "squeeze": (6, {"squeeze", "conv2"}),
        "excite": (2, {"excite"}),
        "dense": (6, {"dense"}),
    }
    assert ("excite.weight", 0, 1) in cuts(toy, "squeeze")


def test_flattened_channels_are_read_in_blocks():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    (group,) = find_units(network, IMAGE)
    assert group.count == 4 and group.places == (("3", "input", 9),)
    assert ("3.weight", 1, 9) in group.cuts


def test_channels_that_were_moved_are_followed():
    def between(toy, features):
        hidden = toy.wide(features.permute(0, 2, 3, 1)).relu()
        return toy.conv2(toy.narrow(hidden).permute(0, 3, 1, 2))

    toy = Toy(between, wide=nn.Linear(6, 9), narrow=nn.Linear(9, 6))
    assert groups(toy) == {
        "wide": (6, {"wide"}),
        "narrow": (9, {"narrow"}),
        "conv2": (6, {"conv2"}),
        "dense": (6, {"dense"}),
    }


def mixed_up(toy, features):
    return toy.conv2(features[:, torch.arange(5, -1, -1)])


def put_together(toy, features):
    return toy.conv2(torch.cat([features[:, :3], features[:, 3:]], 1))


def normalised_together(toy, features):
    return toy.conv2(functional.layer_norm(features, (6, 8, 8)))


def grouped(toy, features):
    return toy.conv2(functional.conv2d(features, torch.ones(6, 3, 1, 1), groups=2))


def weights_alone(toy, features):
    return functional.conv2d(features, toy.conv2.weight, padding=1)


def weights_standardised(toy, features):
    return functional.conv2d(features, toy.conv2.weight - toy.conv2.weight.mean(), padding=1)


def added_to_a_constant_per_channel(toy, features):
    return toy.conv2(features + torch.arange(6.0).view(6, 1, 1))


def decided_by_a_value(toy, features):
    return toy.conv2(features if features.sum().item() > 0 else -features)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features):
        return features.flip(1)


def hidden_in_a_function(toy, features):
    return toy.conv2(Reversed.apply(features))


@pytest.mark.parametrize(
    "between",
    [
        mixed_up,
        put_together,
        normalised_together,
        grouped,
        weights_alone,
        weights_standardised,
        added_to_a_constant_per_channel,
        decided_by_a_value,
        hidden_in_a_function,
    ],
)
def test_what_cannot_be_followed_leaves_its_channels_ungated(between):
    try:
        found = find_units(Toy(between), IMAGE)
    except ValueError as error:
        assert "all its channels are inseparable" in str(error)
        return
    assert not any(cut.tensor.startswith("conv1") for group in found for cut in group.cuts)


SCALE = torch.ones(6, 1, 1)


@pytest.mark.parametrize(
    "scale",
    [lambda features: features * SCALE, lambda features: torch.from_numpy(features.numpy() * 2)],
)
def test_a_tensor_from_nowhere_is_refused(scale):
    toy = Toy(lambda toy, features: toy.conv2(scale(features)))
    with pytest.raises(ValueError, match=r"no gates fit Toy: a tensor it gives to '.*' is no para"):
        find_units(toy, IMAGE)


def test_a_network_without_units_is_refused():
    with pytest.raises(ValueError, match="no gates fit Sequential: all its channels"):
        find_units(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), IMAGE)


def test_looking_leaves_the_network_as_it_was():
    toy = Toy(lambda toy, features: toy.conv2(toy.norm(features)), norm=nn.BatchNorm2d(6)).train()
    toy.conv1.eval()
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    random = torch.get_rng_state()
    find_units(toy, IMAGE)
    assert toy.training and toy.norm.training and not toy.conv1.training
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_pre_hooks for module in toy.modules())
