"""ConvNeXt-tiny: the published sizes, timm's trunk without its last LayerNorm, the heads."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from components.models.build import build_model
from components.models.convnext import convnext_tiny

NARROW = {"depths": (1, 1, 2, 1), "widths": (8, 12, 16, 24)}
WORDS = {name: list(numbers) for name, numbers in NARROW.items()}


def numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_published_sizes():
    with torch.device("meta"):
        dense, decoded = convnext_tiny(100, 3), convnext_tiny(100, 3, head="ml_decoder")
    assert numbers(dense.trunk) == numbers(decoded.trunk) == 27_818_592
    assert numbers(dense.head) == 552_292 and numbers(dense) == 28_370_884
    assert numbers(decoded.head) == 6_183_012


def test_last_feature_map_and_logits():
    with torch.device("meta"):
        network, image = convnext_tiny(100, 3).eval(), torch.zeros(2, 3, 224, 224)
        assert network.forward_features(image).shape == (2, 768, 7, 7)
        assert network(image).shape == (2, 100)


@torch.no_grad()
def test_the_trunk_is_timm_s_and_the_head_reads_its_mean():
    network = convnext_tiny(5, 3, **NARROW).eval()
    twin = timm.create_model(
        "convnext_tiny", depths=NARROW["depths"], dims=NARROW["widths"], num_classes=0
    ).eval()
    twin.load_state_dict(network.trunk.state_dict(), strict=False)
    features = twin.forward_features(images())
    assert torch.equal(network.forward_features(images()), features)
    told = features.mean((2, 3))
    for layers in (network.head.hidden1, network.head.hidden2):
        told = layers[3](nn.functional.gelu(layers[0](told)))
    assert torch.allclose(network(images()), network.head.classify(told), atol=1e-6)


def test_published_options():
    network = convnext_tiny(5, 3)
    drops = [part.drop_prob for part in network.modules() if type(part).__name__ == "DropPath"]
    assert drops == pytest.approx([0.1 * block / 17 for block in range(1, 18)])  # the first none
    scales = [value for name, value in network.named_parameters() if name.endswith("gamma")]
    assert len(scales) == 18 and all((scale == 1e-6).all() for scale in scales)
    norms = [part for part in network.trunk.modules() if isinstance(part, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    layers = [type(part).__name__ for part in network.head.hidden1]
    assert layers == ["Linear", "GELU", "Dropout", "LayerNorm"]
    assert {part.p for part in network.head.modules() if isinstance(part, nn.Dropout)} == {0.2}


@pytest.mark.parametrize("num_classes", [7, 1000])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_file_of_timm_s_weights_fills_the_trunk(in_channels, num_classes, tmp_path, make_spec):
    twin = timm.create_model(
        "convnext_tiny", depths=NARROW["depths"], dims=NARROW["widths"], num_classes=num_classes
    )
    theirs = twin.state_dict()
    save_file(theirs, tmp_path / "model.safetensors")
    words = {"name": "convnext_tiny", **WORDS}
    fields = {"image_shape": (in_channels, 32, 32), "mean": (0.1,) * in_channels}
    fields["deviation"] = (0.2,) * in_channels
    weights = str(tmp_path / "model.safetensors")
    model = build_model(make_spec(backbone={**words, "weights": weights}, **fields))
    own = model.backbone.trunk.state_dict()
    assert own.keys() == {name for name in theirs if not name.startswith("head.")}
    for name in own:
        summed = in_channels == 1 and name == "stem.0.weight"
        assert torch.equal(own[name], theirs[name].sum(1, keepdim=True) if summed else theirs[name])
    assert model.spec.backbone == {"name": "convnext_tiny", **WORDS}
    assert model.spec.mean == (pytest.approx((0.485, 0.456, 0.406)) if in_channels == 3 else (0.1,))


def test_a_file_of_its_own_weights_keeps_the_data_s_normalisation(tmp_path, make_spec):
    words = {"name": "convnext_tiny", **NARROW}
    fields = {"image_shape": (3, 32, 32), "mean": (0.1,) * 3, "deviation": (0.2,) * 3}
    state = build_model(make_spec(backbone=words, **fields)).backbone.state_dict()
    torch.save(state, tmp_path / "w")
    words["weights"] = str(tmp_path / "w")
    model = build_model(make_spec(backbone=words, **fields))
    own = model.backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own | state)
    assert model.spec.mean == (0.1,) * 3


def test_files_that_do_not_fit(tmp_path, make_spec):
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "w")
    words = {"name": "convnext_tiny", **NARROW, "weights": str(tmp_path / "w")}
    with pytest.raises(ValueError, match=r"do not fit: missing head.*, unexpected head"):
        build_model(make_spec(backbone=words, image_shape=(2, 32, 32)))
