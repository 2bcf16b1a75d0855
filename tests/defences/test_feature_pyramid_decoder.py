"""Feature pyramid decoder: the published numbers, and every step recomputed by hand."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from components.attacks.acceleration import LIMITS, search_copy
from components.defences.defended import honest_view
from components.defences.denoising import Denoise, non_local
from components.defences.feature_pyramid_decoder import FeaturePyramidDecoder
from components.defences.random_resize_pad import RandomResizePad, unmoved
from components.defences.restoration import Restoration
from components.models.build import ModelSpec, Normalise, build_model
from components.models.checkpoint import load_checkpoint, save_checkpoint
from tests.defences.published import PublishedResNeXt


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("backbone", "width", "expected"),
    [
        ("resnet101", 256, 44_164_557),
        ("resnet101", 128, 43_197_261),
        ("resnet50", 128, 24_205_133),
        ((3, 4, 6, 3), 128, 15_280_973),
        ((3, 4, 23, 3), 128, 25_795_405),
    ],
)
def test_published_numbers_of_parameters(backbone, width, expected):
    with torch.device("meta"):
        named = isinstance(backbone, str)
        network = (
            timm.create_model(backbone, num_classes=10) if named else PublishedResNeXt(backbone)
        )
        assert count(FeaturePyramidDecoder(network, width=width).parameters()) == expected


def test_published_numbers_of_each_part():
    with torch.device("meta"):
        decoder = FeaturePyramidDecoder(timm.create_model("resnet101", num_classes=10))
    restoration, trunk = decoder.restoration, decoder.inner
    stages = [
        count(stage.parameters())
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    ]
    assert stages == [215_808, 1_219_584, 26_090_496, 14_964_736]
    assert count(restoration.top.parameters()) == 524_544
    assert count(restoration.smooth.parameters()) == 590_080
    # The finest first.
    assert [count(lateral.parameters()) for lateral in restoration.laterals] == [
        65_792,
        131_328,
        262_400,
    ]
    assert count(restoration.enlarge.parameters()) == 69_763
    groups = {name: count(group) for name, group in decoder.parameter_groups().items()}
    assert groups == {
        "front": 9_536 + sum(stages),
        "restore": 524_544 + 590_080 + 65_792 + 131_328 + 262_400 + 69_763,
        "back_only": 0,
        "head": 20_490,
    }


@pytest.mark.parametrize(
    ("doublings", "finest", "sizes"),
    [(2, 56, (112, 224, 224)), (2, 16, (32, 64, 64)), (0, 64, (63, 64, 64)), (0, 32, (31, 32, 32))],
)
def test_published_sizes(doublings, finest, sizes):
    with torch.device("meta"):
        decoder = Restoration([256, 512], width=128, image_channels=3, doublings=doublings)
        features = torch.zeros(1, 128, finest, finest)
        for layer, size in zip(decoder.enlarge, sizes, strict=True):
            features = layer(features)
            assert features.shape[-2:] == (size, size)
    assert features.shape[1] == 3


@pytest.mark.parametrize("shape", [(2, 5, 8, 8), (2, 80, 4, 4)])
def test_non_local_mean_is_the_same_over_channels_and_over_places(shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found, places = non_local(features), shape[2] * shape[3]
    for one, expected in zip(features.flatten(2), found.flatten(2), strict=True):
        by_places = torch.stack(
            [sum((place @ other) * other for other in one.T) / places for place in one.T], 1
        )
        assert torch.allclose(by_places, expected, atol=1e-4)
        assert torch.allclose((one @ one.T) @ one / places, expected, atol=1e-4)
    assert torch.equal(Denoise(shape[1], "nonlocal")(features), features + found)
    assert torch.equal(Denoise(shape[1], "projected")(features), features)


def test_non_local_mean_is_taken_in_float32():
    features = torch.full((1, 64, 4, 4), 16.0)  # 64 * 16^3 is beyond half precision
    assert non_local(features.half() / 8).dtype == torch.float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = non_local(features)
    assert (mixed == 64 * 16**3).all() and mixed.dtype == torch.float32


def by_hand(decoder, images, raw=None):
    """Recompute the published flow: restored image, middle, and logits before tanh."""
    net, restoration = decoder.inner, decoder.restoration

    def denoised(features):
        flat = features.flatten(2)
        gram = torch.einsum("bcn,bdn->bcd", flat, flat)
        return torch.einsum("bcd,bdn->bcn", gram, flat).view_as(features) / flat.shape[2]

    def trunk(pixels):
        stem = net.stem(pixels)
        first = net.block1(stem + denoised(stem))
        second = net.block2(first + denoised(first))
        return first, second, net.block3(second)

    def up(coarse, fine):
        return functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")

    first, second, third = trunk(images)
    total = restoration.top(third)
    total = up(total, second) + restoration.laterals[1](second)
    total = up(total, first) + restoration.laterals[0](first)
    restored = restoration.enlarge(restoration.smooth(total))
    middle = restored + denoised(images)
    return restored, middle, net.linear(trunk(middle)[2].mean((2, 3)))


@torch.no_grad()
def test_every_step_recomputed(decoded, pictures):
    decoder = decoded()
    restored, middle, logits = by_hand(decoder, pictures)
    parts = decoder.parts(pictures)
    for found, expected in [
        (parts.front.restored, restored),
        (parts.middle, middle),
        (parts.unbounded, logits),
        (parts.logits, logits.tanh()),
        (decoder(pictures), logits.tanh()),
        (honest_view(decoder)(pictures), logits),
    ]:
        assert (found - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())


@torch.no_grad()
def test_options_of_the_middle(decoded, pictures):
    raw, restored, none = (
        decoded(middle=middle).parts(pictures) for middle in ("raw", "restored", "none")
    )
    image = none.front.restored
    assert torch.equal(none.middle, image)
    assert torch.allclose(raw.middle, raw.front.restored + non_local(pictures))
    assert torch.allclose(
        restored.middle, restored.front.restored + non_local(restored.front.restored)
    )


@torch.no_grad()
def test_ablations(decoded, pictures):
    bare = decoded(restore=False, width=256, denoise="none", middle="raw", bound="none")
    expected = bare.inner(pictures + non_local(pictures))
    assert torch.allclose(bare(pictures), expected, atol=1e-5)
    once = decoded(passes=1, denoise="none", bound="none")
    assert torch.equal(once(pictures), once.inner(pictures))
    assert once.parts(pictures).front.restored.shape == pictures.shape
    both, front, back = (decoded(denoise_in=where) for where in ("both", "front", "back"))
    for decoder in (front, back):
        decoder.load_state_dict(both.state_dict())
    restored = [decoder.parts(pictures).front.restored for decoder in (both, front, back)]
    assert torch.equal(restored[0], restored[1]) and not torch.equal(restored[0], restored[2])
    assert not torch.equal(both(pictures), front(pictures))


def test_shared_norms_see_both_passes_and_own_norms_one_each(decoded, pictures):
    shared, own = decoded().train(), decoded(trunk="own_norms").train()
    before = [copy.deepcopy(d.inner.block1[1].num_batches_tracked) for d in (shared, own)]
    shared(pictures), own(pictures)
    after = [d.inner.block1[1].num_batches_tracked for d in (shared, own)]
    assert [int(b - a) for a, b in zip(before, after, strict=True)] == [2, 1]
    assert own.back_norms[0].num_batches_tracked == after[1]
    assert not torch.equal(own.back_norms[0].running_mean, own.inner.block1[1].running_mean)


@pytest.mark.parametrize("trunk", ["separate", "own_norms"])
@torch.no_grad()
def test_back_pass_starts_from_weights_that_were_loaded(trunk, decoded, pictures):
    decoder, shared = decoded(trunk=trunk), decoded()
    decoder.inner.load_state_dict(shared.inner.state_dict())
    decoder.restoration.load_state_dict(shared.restoration.state_dict())
    decoder.renew()
    assert torch.equal(decoder(pictures), shared(pictures))


def test_a_separate_trunk_learns_by_itself(decoded, pictures):
    decoder = decoded(trunk="separate", middle="none").train()
    decoder.parts(pictures).front.restored.sum().backward()
    assert decoder.inner.stem.weight.grad.any() and decoder.back.stem.weight.grad is None
    decoder.zero_grad()
    decoder(pictures).sum().backward()
    assert decoder.back.stem.weight.grad.any() and decoder.back.linear.weight.grad.any()
    assert decoder.inner.stem.weight.grad.any() and decoder.inner.linear.weight.grad is None


@pytest.mark.parametrize(
    "options", [{}, {"trunk": "separate"}, {"trunk": "own_norms"}, {"head": "pooled"}]
)
def test_groups_hold_every_parameter_once(options, decoded):
    decoder = decoded(**options)
    groups = decoder.parameter_groups()
    ids = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(ids) == sorted(id(parameter) for parameter in decoder.parameters())
    assert groups["front"] and groups["restore"] and len(groups["head"]) == 2
    assert bool(groups["back_only"]) == (options.get("trunk") is not None)


@torch.no_grad()
def test_pooled_head_reads_the_coarsest_level_of_the_back_pass(decoded, pictures):
    decoder = decoded(head="pooled", bound="none")
    parts = decoder.parts(pictures)
    assert torch.allclose(parts.logits, decoder.pooled(parts.back[-1].mean((2, 3))))


@torch.no_grad()
def test_normalised_space_restores_behind_the_normalisation(pictures):
    torch.manual_seed(0)
    layer = Normalise((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    network = nn.Sequential(layer, timm.create_model("test_resnet", num_classes=4)).eval()
    decoder = FeaturePyramidDecoder(network, width=4, restore_space="normalised").eval()
    plain = FeaturePyramidDecoder(network[1], width=4).eval()
    plain.restoration.load_state_dict(decoder.restoration.state_dict())
    images = functional.interpolate(pictures, size=(64, 64))
    assert torch.equal(decoder.enter(images), layer(images))
    assert torch.allclose(decoder(images), plain(layer(images)), atol=1e-5)
    again = decoder.parts(layer(images), entered=True)
    assert torch.allclose(again.logits, decoder(images), atol=1e-5)


@torch.no_grad()
def test_evaluation_draws_nothing_and_dropout_comes_before_the_last_layer(decoded, pictures):
    decoder = decoded(dropout=0.5)
    assert torch.equal(decoder(pictures), decoder(pictures)) and not decoder.randomised
    dropped, read = [], []
    decoder.dropout.register_forward_hook(lambda _, inputs, output: dropped.append(output))
    decoder.inner.linear.register_forward_hook(lambda _, inputs, output: read.append(output))
    decoder.train()(pictures)
    assert len(read) == 1  # the front pass ends at the coarsest level
    assert 0.2 < (dropped[0] == 0).double().mean() < 0.8
    assert torch.equal(decoder.inner.linear(dropped[0]), read[0])


def test_nothing_stays_on_the_network(decoded, pictures):
    decoder = decoded(bound="spectral_tanh", dropout=0.5)
    with pytest.raises(RuntimeError):
        decoder(pictures[:, :2])
    decoder(pictures)
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in decoder.modules()]
    assert not any(hooks) and isinstance(decoder.inner.linear.weight, nn.Parameter)


@torch.no_grad()
def test_what_draws_inside_is_averaged(decoded, pictures):
    wrapped = FeaturePyramidDecoder(RandomResizePad(decoded().inner, min_size=0.5), width=5).eval()
    torch.manual_seed(3)
    found = honest_view(wrapped, draws=4)(pictures)
    torch.manual_seed(3)
    drawn = [wrapped.parts(pictures).unbounded.log_softmax(1) for _ in range(4)]
    assert torch.allclose(found, torch.stack(drawn).mean(0), atol=1e-5)
    view = honest_view(wrapped, draws=4)
    with unmoved(wrapped):
        assert torch.equal(view(pictures), wrapped.parts(pictures).unbounded)


@pytest.mark.parametrize("bound", ["tanh", "spectral", "spectral_tanh"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@torch.no_grad()
def test_the_fast_copy_of_attacks_agrees(decoded, pictures, bound, precision):
    decoder = decoded(bound=bound)
    found = search_copy(decoder, pictures, precision=precision)
    assert found is not None
    expected = decoder(pictures)
    near = LIMITS[found.precision] * expected.std(correction=0)
    assert (found(pictures) - expected).abs().max() <= near


@pytest.mark.parametrize("options", [{}, {"trunk": "own_norms", "denoise": "projected"}])
def test_checkpoint_round_trip(options, tmp_path):
    spec = ModelSpec(
        backbone={"name": "preact_resnet18", "widths": [4, 4, 6, 8]},
        defences=(
            {
                "name": "feature_pyramid_decoder",
                "width": 8,
                "levels": ["layer2", "layer4"],
                **options,
            },
        ),
        classes=("a", "b", "c"),
        image_shape=(3, 32, 32),
        mean=(0.5,) * 3,
        deviation=(0.25,) * 3,
    )
    model = build_model(spec).train()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        model(images)
    save_checkpoint(model, tmp_path, provenance={})
    loaded = load_checkpoint(tmp_path)
    with torch.no_grad():
        logits = model.eval()(images)
        assert logits.isfinite().all() and torch.equal(loaded(images), logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"passes": 3}, "passes must be 1 or 2, got 3"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"scale": -1.0}, "scale must be finite and above 0, got -1.0"),
        ({"passes": 1, "trunk": "separate"}, "have no effect without restore and 2 passes"),
        ({"restore": False, "passes": 1, "width": 256}, "without restore there are no 1 pass"),
        ({"restore": False, "width": 128}, "without restore there are no 1 pass, no width"),
        (
            {"restore": False, "width": 256, "denoise_in": "front"},
            "denoise_in 'front' has no effect without a front pass",
        ),
        (
            {"passes": 1, "denoise_in": "back"},
            "denoise_in 'back' has no effect without a back pass",
        ),
        ({"denoise": "none", "denoise_in": "back"}, "have no effect where denoise is none"),
        ({"denoise": "none", "denoise_at": ["block1"]}, "have no effect where denoise is none"),
        ({"restore_space": "normalised"}, "does not normalise its images"),
        ({"levels": ["block1", "blok2"]}, "the network has no block 'blok2'"),
        ({"levels": ["block2", "linear"]}, "linear does not give one feature map"),
        ({"levels": ["block2"]}, "needs maps of two sizes at least"),
        ({"denoise_at": ["block1:output"]}, "is no place to denoise"),
    ],
)
def test_wrong_options(options, message, decoded):
    with pytest.raises(ValueError, match=message):
        decoded(**options)


def test_no_decoder_on_a_decoder(decoded):
    with pytest.raises(ValueError, match="has a feature pyramid decoder already"):
        FeaturePyramidDecoder(decoded())
