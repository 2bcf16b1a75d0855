"""A model is normalisation, backbone and defences in that order, and knows its own words."""

import pytest
import torch
from torch import nn

from components.defences import DEFENCES
from components.defences.defended import honest_view, is_randomised
from components.models.build import ModelSpec, Normalise, build_model


def images(count=3):
    return torch.rand(count, 2, 28, 28, generator=torch.Generator().manual_seed(0))


def test_normalisation_is_per_channel():
    pixels = torch.tensor([0.7, 0.4]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    normal = Normalise((0.2, 0.4), (0.5, 0.25))(pixels)
    assert normal[0, 0].unique().tolist() == [pytest.approx(1.0)]
    assert normal[0, 1].unique().tolist() == [0.0]


def test_normalised_data_has_mean_0_and_deviation_1():
    pixels = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0)) ** 2
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    normal = Normalise(tuple(mean.tolist()), tuple(deviation.tolist()))(pixels)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-5
    assert (normal.std((0, 2, 3)) - 1).abs().max() < 1e-5


def test_pixels_to_logits(make_spec):
    model = build_model(make_spec())
    logits = model(images())
    assert logits.shape == (3, 3)
    normal = Normalise((0.2, 0.4), (0.5, 0.25))(images())
    assert torch.equal(logits, model.backbone(normal))
    assert model.spec == make_spec()


def test_normalisation_is_in_the_words_not_in_the_weights(make_spec):
    names = build_model(make_spec()).state_dict()
    assert not any("mean" in name or "deviation" in name for name in names)


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_defence_is_outermost(order, make_spec):
    names = list(DEFENCES)[::order]
    model = build_model(make_spec(defences=tuple({"name": name} for name in names)))
    worn, layer = [], model.network
    while not isinstance(layer, nn.Sequential):
        worn.append(type(layer))
        layer = layer.inner
    assert worn == [DEFENCES[name] for name in reversed(names)]
    assert model.backbone is layer[1]


@pytest.mark.parametrize("name", DEFENCES)
def test_defences_sit_before_normalisation(name, make_spec):
    """With the weights of the bare model, the network inside the defence is that model."""
    bare = build_model(make_spec())
    defended = build_model(make_spec(defences=({"name": name},)))
    defended.backbone.load_state_dict(bare.backbone.state_dict())
    assert torch.equal(defended.network.inner(images()), bare(images()))


def test_options_of_a_defence_arrive(make_spec):
    assert is_randomised(build_model(make_spec(defences=({"name": "random_resize_pad"},))))
    spec = make_spec(defences=({"name": "random_resize_pad", "train_only": True},))
    assert not is_randomised(build_model(spec))


def test_honest_view_is_that_of_the_defences(make_spec):
    model = build_model(make_spec(defences=({"name": "gradient_concealment"},)))
    assert honest_view(model) is model.network.inner
    assert torch.allclose(honest_view(model)(images()), model(images()), atol=1e-5)


def test_weights_come_from_the_global_generator(make_spec):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model(make_spec()).parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_spec_survives_json(make_spec):
    spec = make_spec(
        defences=({"name": "random_resize_pad", "min_size": 0.9}, "gradient_concealment")
    )
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert spec.defences[1] == {"name": "gradient_concealment"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (28, 28)}, r"image_shape must be channels, height, width, got \(28, 28\)"),
        ({"mean": (0.5,)}, "mean and deviation must have one entry per channel"),
        ({"deviation": (0.5, 0.5, 0.5)}, "mean and deviation must have one entry per channel"),
        ({"deviation": (0.5, 0.0)}, r"deviation must be above 0, got \(0.5, 0.0\)"),
        ({"mean": (0.5, float("nan"))}, r"mean\[1\] must be finite, got nan"),
        ({"classes": ("cat", 3)}, r"classes\[1\] must be of type str, got 3"),
        ({"backbone": {"widths": []}}, "backbone must be a word with options"),
    ],
)
def test_wrong_words(changes, message, make_spec):
    with pytest.raises(ValueError, match=message):
        make_spec(**changes)


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        ("lenet5", 32, r"lenet5 takes images of 28 x 28 pixels, got \(32, 32\)"),
        ("vgg16", 28, r"vgg16 takes images of 32 x 32 pixels, got \(28, 28\)"),
        ("convnext_tiny", 31, r"takes images of at least 32 x 32 pixels, got \(31, 31\)"),
    ],
)
def test_images_that_the_backbone_does_not_take(backbone, size, message, make_spec):
    spec = make_spec(backbone={"name": backbone}, image_shape=(2, size, size))
    with pytest.raises(ValueError, match=message):
        build_model(spec)
    with pytest.raises(ValueError, match="has no option 'image_size'"):
        build_model(make_spec(backbone={"name": backbone, "image_size": [size, size]}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "lenet6"}, "unknown name 'lenet6'"),
        ({"backbone": {"name": "lenet5", "depth": 3}}, "'lenet5' has no option 'depth'"),
        ({"defences": ("moat",)}, "unknown name 'moat'"),
        ({"defences": ({"name": "random_resize_pad", "min_size": 2},)}, "min_size must be"),
    ],
)
def test_words_without_meaning(changes, message, make_spec):
    with pytest.raises(ValueError, match=message):
        build_model(make_spec(**changes))
