"""ConvNeXt-tiny: the published sizes, timm's trunk without its last LayerNorm, the heads."""

import pytest
import timm
import torch
from torch import nn

from components.models.convnext import convnext_tiny

NARROW = {"depths": (1, 1, 2, 1), "widths": (8, 12, 16, 24)}


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
