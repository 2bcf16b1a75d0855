"""Activation maps against closed forms, against formulas worked by hand, and real networks."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from components.attacks.gradients import untouched
from components.models.build import ModelSpec, build_model
from components.objectives.crafting import attack_view
from components.objectives.importance import (
    METHODS,
    centred_maps,
    chosen_classes,
    normalised,
    random_maps,
    resized,
)
from components.objectives.watching import Seen, look

FEATURES = torch.tensor([[[[1.0, 0], [2, 3]], [[0, 2], [1, 1]]]])
WEIGHTS = torch.tensor([0.5, -0.25])
SLOPES = (WEIGHTS / 4).view(1, 2, 1, 1)


def close(first, second, tolerance=1e-6):
    return torch.allclose(first, torch.as_tensor(second), atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", ["cam", "gradcam", "xgradcam"])
def test_closed_form_of_two_channels(method):
    maps = METHODS[method](FEATURES, SLOPES)
    assert close(maps, [[[[0.125, 0], [0.1875, 0.3125]]]])
    assert close(normalised(maps)[0], [[[[0.4, 0], [0.6, 1]]]])


def test_closed_form_of_layercam():
    assert close(METHODS["layercam"](FEATURES, SLOPES), [[[[0.125, 0], [0.25, 0.375]]]])


def test_closed_form_of_gradcam_plus_plus():
    # Sums of the channels are 6 and 4; g^2 / (2 g^2 + sum g^3) = 1 / (2 + sum g), summed 4 times.
    weight = 4 * 0.125 / (2 + 6 * 0.125)  # the other channel's gradient is negative
    maps = METHODS["gradcam++"](FEATURES, SLOPES)
    assert close(maps, weight * FEATURES[:, :1])


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "xgradcam"])
def test_a_slope_for_every_place_may_be_the_same(method):
    spread = METHODS[method](FEATURES, SLOPES.expand_as(FEATURES))
    assert close(METHODS[method](FEATURES, SLOPES), spread)


def test_dead_channels_count_nothing():
    dead = torch.cat([FEATURES, torch.zeros(1, 1, 2, 2)], 1)
    slopes = torch.cat([SLOPES, torch.ones(1, 1, 1, 1)], 1)
    for name, method in METHODS.items():
        assert close(method(dead, slopes), method(FEATURES, SLOPES)), name


def test_cam_refuses_a_head_that_is_not_linear_in_the_mean():
    with pytest.raises(ValueError, match="dense layer of its mean features"):
        METHODS["cam"](FEATURES, SLOPES.expand_as(FEATURES))


class Functional(nn.Module):
    """A network that rectifies and averages without modules for it."""

    def __init__(self):
        super().__init__()
        self.layer, self.pool, self.dense = (
            nn.Conv2d(3, 4, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(4, 3),
        )

    def forward(self, images):
        features = functional.relu(self.layer(images))
        return self.dense(self.pool(features).flatten(1))


def pooled(seed=0):
    torch.manual_seed(seed)
    features = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).train()


def flattened():
    torch.manual_seed(1)
    relu = nn.ReLU()  # called twice: what counts is its last call
    features = nn.Conv2d(3, 6, 3), relu, nn.Conv2d(6, 5, 3), relu
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(5 * 12, 7), nn.Tanh(), nn.Linear(7, 4))


def rectified():
    torch.manual_seed(2)
    return Functional()


IMAGES = torch.rand(5, 3, 8, 7, generator=torch.Generator().manual_seed(3))
CLASSES = torch.tensor([0, 1, 2, 2, 0])


def by_autograd(network, classes):
    """Give the features before the pooling or flattening layer, and the gradients there."""
    network = copy.deepcopy(network).eval()
    reader = next(m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d | nn.Flatten))
    kept = []
    reader.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    logits = network(IMAGES)
    (slopes,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept[0])
    return kept[0].detach(), slopes


@pytest.mark.parametrize("build", [pooled, flattened, rectified])
def test_features_and_slopes_are_those_of_the_whole_backward_pass(build):
    network = build()
    features, slopes = by_autograd(network, CLASSES)
    with torch.no_grad(), attack_view(network, IMAGES, None) as view:
        seen = look(view, IMAGES)
        assert close(seen.features, features)
        assert close(seen.slopes(CLASSES).expand_as(slopes), slopes)
        assert close(seen.logits, view(IMAGES).detach())
    assert (seen.slopes(CLASSES).shape[2:] == (1, 1)) == (build is not flattened)


def test_a_named_layer_before_normalisation():
    """Its maps have a closed form too: with the share of places that the ReLU lets through."""
    network = pooled()
    network[1].running_mean.uniform_(-0.3, 0.3)
    network[1].running_var.uniform_(0.5, 2)
    network[1].weight.data.uniform_(-1, 1)
    with attack_view(network, IMAGES, None) as view:
        seen = look(view, IMAGES, layer="0")
        maps = METHODS["gradcam"](seen.features, seen.slopes(CLASSES))
    norm = copy.deepcopy(network[1]).eval()
    through = (norm(seen.features) > 0).float().mean((2, 3), keepdim=True)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weights = (network[5].weight[CLASSES] * scale)[:, :, None, None] * through
    expected = (seen.features * weights).sum(1, keepdim=True).relu() / (8 * 7)
    assert close(maps, expected.detach())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_copy_shows_the_same_features(precision):
    network = pooled()
    with attack_view(network, IMAGES, None) as view:
        expected = look(view, IMAGES)
    with attack_view(network, IMAGES, precision) as view:
        seen = look(view, IMAGES)
    tolerance = 1e-5 if precision == "float32" else 0.05
    assert close(seen.features, expected.features, tolerance)
    assert close(seen.slopes(CLASSES), expected.slopes(CLASSES), tolerance)


def test_looking_leaves_no_trace():
    network = flattened()
    with untouched(network), attack_view(network, IMAGES, None) as view:
        look(view, IMAGES).slopes(CLASSES)
    assert all(parameter.grad is None for parameter in network.parameters())
    for module in network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_what_cannot_be_looked_at_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(168, 4))
    with attack_view(flat, IMAGES, None) as view, pytest.raises(ValueError, match="no layer has"):
        look(view, IMAGES)
    with attack_view(pooled(), IMAGES, None) as view:
        with pytest.raises(ValueError, match="unknown layer 'layer4'"):
            look(view, IMAGES, layer="layer4")
        with pytest.raises(ValueError, match="not '5'"):
            look(view, IMAGES, layer="5")


def views(network, images):
    torch.manual_seed(0)
    return attack_view(network().eval(), images, None)


def test_a_decoder_of_queries_is_no_feature_map():
    """Its tokens, divided among heads, have four dimensions as well."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    spec = ModelSpec(
        backbone={"name": "se_resnet", "head": "ml_decoder"},
        classes=tuple("abcdefghij"),
        image_shape=(3, 64, 64),
        mean=(0.5,) * 3,
        deviation=(0.25,) * 3,
    )
    with views(lambda: build_model(spec), images) as view:
        assert look(view, images).features.shape == (2, 512, 2, 2)


@pytest.mark.parametrize(
    ("name", "options", "block"),
    [
        ("test_vit", {"img_size": 64}, "blocks.0"),
        ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True}, "blocks.0.attn.k_norm"),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 24}, "layers.3"),
    ],
)
def test_tokens_and_channels_last_are_no_feature_maps(name, options, block):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with views(lambda: timm.create_model(name, num_classes=3, **options), images) as view:
        with pytest.raises(ValueError, match=r"the first layer, 'patch_embed.proj', which know"):
            look(view, images)
        with pytest.raises(
            ValueError, match=rf"not '{block}' has such; take one of \['patch_embed"
        ):
            look(view, images, layer=block)
        named = look(view, images, layer="patch_embed.proj")
    assert named.features.shape[2:] == named.slopes(CLASSES[:2]).shape[2:] != (1, 1)


class Late(nn.Module):
    """Gives features of a shape of its own, and then logits."""

    def __init__(self, *shape):
        super().__init__()
        self.shape, self.last, self.dense = shape, nn.Identity(), nn.LazyLinear(3)

    def forward(self, images):
        features = self.last(functional.interpolate(images, self.shape))
        return self.dense(features.flatten(1))


@pytest.mark.parametrize(
    ("image", "shape", "fits"),
    [
        ((8, 8), (4, 4), True),
        ((8, 8), (8, 8), True),
        ((8, 8), (4, 3), False),
        ((8, 8), (1, 1), False),
        ((8, 8), (9, 9), False),
        ((8, 7), (4, 3), True),
        ((7, 10), (4, 5), True),
        ((12, 6), (4, 2), True),
        ((12, 6), (2, 4), False),
        ((12, 6), (10, 1), False),
    ],
)
def test_a_feature_map_has_the_shape_of_the_image(image, shape, fits):
    network, images = Late(*shape), torch.rand(2, 3, *image)
    network(images)
    with attack_view(network, images, None) as view:
        if fits:
            assert look(view, images).features.shape == (2, 3, *shape)
            return
        with pytest.raises(ValueError, match="but no layer has such; take another network"):
            look(view, images)


def test_attention_may_be_square_and_is_no_feature_map():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.softmax, self.dense = nn.Conv2d(3, 4, 3), nn.Softmax(3), nn.Linear(7, 2)

        def forward(self, images):
            tokens = self.maps(images).flatten(2)[:, :, :7]
            share = self.softmax((tokens.mT @ tokens)[:, None])
            return self.dense(share[:, 0].mean(1))

    images = IMAGES[..., :7, :]
    with attack_view(Attends(), images, None) as view:
        assert look(view, images).features.shape[1] == 4


def test_whose_map_is_wanted():
    logits = torch.tensor([[3.0, 2, 1], [1, 2, 3]])
    seen = Seen(logits, FEATURES, lambda classes: SLOPES)
    labels = torch.tensor([0, 1])
    assert chosen_classes(seen, labels, "predicted").tolist() == [0, 2]
    assert chosen_classes(seen, labels, "label").tolist() == [0, 1]
    assert chosen_classes(seen, labels, "runner_up").tolist() == [1, 2]
    with pytest.raises(ValueError, match="of must be"):
        chosen_classes(seen, labels, "other")


def test_constant_maps_become_one_and_are_told():
    maps = torch.stack([torch.full((1, 2, 2), 3.0), torch.tensor([[[0.0, 1], [2, 4]]])])
    stretched, constant = normalised(torch.cat([maps, torch.full((1, 1, 2, 2), torch.nan)]))
    assert constant.tolist() == [True, False, True]
    assert close(stretched[0], torch.ones(1, 2, 2)) and close(stretched[2], torch.ones(1, 2, 2))
    assert close(stretched[1], [[[0, 0.25], [0.5, 1]]])


def test_enlarging():
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert close(resized(maps, (2, 4), "bilinear")[0, 0, 0], [0, 0.25, 0.75, 1])
    wild = resized(maps, (8, 8), "overshooting")
    assert float(wild.min()) < 0 and float(wild.max()) > 1
    assert close(resized(maps, (8, 8), "bicubic"), wild.clamp(0, 1))
    with pytest.raises(ValueError, match="resize"):
        resized(maps, (4, 4), "nearest")


def test_maps_that_know_nothing():
    labels = torch.zeros(3, dtype=torch.int64)
    centred = centred_maps(labels, (5, 7))
    assert centred.flatten(1).argmax(1).tolist() == [17, 17, 17]
    assert torch.equal(centred, centred.flip(2)) and torch.equal(centred, centred.flip(3))
    first, again = (random_maps(labels, (5, 7), torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
