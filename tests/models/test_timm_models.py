"""timm's classifiers: their sizes, the images they take, names, and weights that timm has."""

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.models.build import build_model
from components.models.timm_models import timm_model

TAG, VIT_TAG = "test_efficientnet.r160_in1k", "test_vit.r160_in1k"
# Numbers of parameters with 1,000 classes, as timm publishes them.
SIZES = {
    "resnet50": 25_557_032,
    "wide_resnet50_2": 68_883_240,
    "densenet121": 7_978_856,
    "efficientnet_b4": 19_341_616,
    "vit_base_patch16_224": 86_567_656,
    "swin_small_patch4_window7_224": 49_606_258,
    "convnext_tiny": 28_589_128,
    "seresnet18": 11_779_624,
    "seresnet34": 21_960_416,
    "seresnet50": 28_088_024,
}


@pytest.mark.parametrize("model", SIZES)
def test_published_networks(model):
    with torch.device("meta"):
        network = timm_model(1000, 3, model=model, image_size=(224, 224)).eval()
        assert sum(parameter.numel() for parameter in network.parameters()) == SIZES[model]
        grey = timm_model(7, 1, model=model).eval()
        size = 224 if model != "efficientnet_b4" else 100
        assert grey(torch.zeros(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("vit_base_patch16_224", (64, 96)),
        ("swin_small_patch4_window7_224", (64, 96)),
        ("swin_small_patch4_window7_224", (32, 32)),
        ("densenet121", (64, 96)),
        ("efficientvit_m0", (72, 96)),  # whose patches overlap
    ],
)
def test_images_of_another_size(model, size):
    with torch.device("meta"):
        network = timm_model(5, 3, model=model, image_size=size)
        assert network.training
        assert network.eval()(torch.zeros(1, 3, *size)).shape == (1, 5)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ("vit_base_patch16_224", 28, "28 x 28 pixels: its patches are of 16 x 16 pixels and must"),
        ("vit_base_patch16_224", 8, "does not take images of 8 x 8 pixels: .*16 x 16"),
        ("swin_small_patch4_window7_224", 30, "its patches are of 4 x 4 pixels and must tile"),
        ("densenet121", 16, "densenet121 does not take images of 16 x 16 pixels: "),
        ("test_efficientnet.r160_in1k", 0, "does not take images of 0 x 0 pixels: "),
    ],
)
def test_images_that_it_cannot_take(model, size, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        timm_model(5, 3, model=model, image_size=(size, size))


def test_a_model_s_images_decide_the_size(make_spec):
    choice = {"name": "timm", "model": "test_vit"}
    model = build_model(make_spec(backbone=choice, image_shape=(2, 32, 48)))
    assert model.backbone.patch_embed.grid_size == (2, 3)
    assert model(torch.zeros(1, 2, 32, 48)).shape == (1, 3) and model.training
    with pytest.raises(ValueError, match="test_vit does not take images of 28 x 28 pixels"):
        build_model(make_spec(backbone=choice))
    with pytest.raises(ValueError, match="'timm' has no option 'image_size'"):
        build_model(make_spec(backbone={**choice, "image_size": [32, 32]}))


@pytest.mark.parametrize("model", ["resnet50", "resnext50_32x4d", "vgg16_bn", "densenet121"])
def test_another_activation(model):
    with torch.device("meta"):
        network = timm_model(5, 3, model=model, activation="elu")
    kinds = [type(part) for part in network.modules()]
    assert nn.ELU in kinds and nn.ReLU not in kinds


def test_networks_whose_activation_is_built_in():
    with pytest.raises(ValueError, match="dla34 does not let its activation be chosen; leave"):
        timm_model(5, 3, model="dla34", activation="elu")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet5000", "timm has no model 'resnet5000'; near it are .*resnet50.*; timm.list"),
        ("vit_base_patch16", "near it are .*vit_base_patch16_224.*; timm.list"),
        ("qqqqqqq", "timm has no model 'qqqqqqq'; timm.list_models"),
        ("resnet18.a7_in1k", r"no weights 'resnet18.a7_in1k', .* one of \['resnet18.a1_in1k'"),
        ("hf-hub:timm/resnet18", "timm has no model 'hf-hub:timm/resnet18'"),
    ],
)
@pytest.mark.parametrize("image_size", [None, (224, 224)])
def test_unknown_names(model, message, image_size):
    with pytest.raises(ValueError, match=message):
        timm_model(10, 3, model=model, image_size=image_size)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder in which timm finds what has been downloaded, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def download(tag, cache):
    """Write weights of a network where a download would leave them."""
    torch.manual_seed(7)
    repository = cache / f"models--timm--{tag}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(timm.create_model(tag).state_dict(), snapshot / "model.safetensors")
    return snapshot / "model.safetensors"


@pytest.fixture
def downloaded(cache):
    """Weights of the smallest network of timm, where a download would have left them."""
    return load_file(download(TAG, cache))


@pytest.mark.parametrize("model", ["test_efficientnet", TAG])
def test_weights_of_timm(model, downloaded, make_spec):
    choice = {"name": "timm", "model": model, "pretrained": True}
    classes = tuple(map(str, range(1000)))
    spec = make_spec(backbone=choice, classes=classes, image_shape=(3, 64, 64), **_statistics(3))
    model = build_model(spec)
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], downloaded[name]) for name in downloaded)
    assert model.spec.backbone == {**choice, "pretrained": False}
    assert model.spec.mean == pytest.approx((0.485, 0.456, 0.406))
    assert model.spec.deviation == pytest.approx((0.229, 0.224, 0.225))
    assert torch.allclose(model.network[0].mean.flatten(), torch.tensor(model.spec.mean))


def test_weights_of_timm_for_other_classes_and_channels(downloaded, make_spec):
    choice = {"name": "timm", "model": TAG, "pretrained": True}
    model = build_model(make_spec(backbone=choice, image_shape=(1, 64, 64), **_statistics(1)))
    state = model.backbone.state_dict()
    assert state["classifier.weight"].shape[0] == 3
    assert torch.allclose(
        state["conv_stem.weight"], downloaded["conv_stem.weight"].sum(1, keepdim=True)
    )
    assert torch.equal(state["conv_head.weight"], downloaded["conv_head.weight"])
    assert (model.spec.mean, model.spec.deviation) == ((0.5,), (0.25,))  # timm knows only colours


@pytest.mark.usefixtures("cache")
def test_without_a_network_the_error_says_how_to_supply_the_file():
    with pytest.raises(ValueError, match=r"cannot be had from https://.*/timm/test_eff") as error:
        timm_model(10, 3, model=TAG, pretrained=True)
    assert "give the file's path or s3:// address as weights" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_classes", [3, 1000])
@pytest.mark.parametrize(
    ("tag", "shape"),
    [
        (TAG, (3, 64, 64)),
        (TAG, (1, 64, 64)),
        (VIT_TAG, (3, 160, 160)),
        (VIT_TAG, (1, 32, 48)),
        ("test_convnext.r160_in1k", (2, 64, 64)),
    ],
)
def test_the_file_becomes_what_the_download_becomes(tag, shape, num_classes, cache, make_spec):
    words = {"name": "timm", "model": tag}
    given = {"weights": str(download(tag, cache)), "reset_head": num_classes != 1000}
    classes = tuple(map(str, range(num_classes)))
    fields = {"classes": classes, "image_shape": shape, **_statistics(shape[0])}
    models = []
    for source in ({"pretrained": True}, given):
        torch.manual_seed(0)
        models.append(build_model(make_spec(backbone={**words, **source}, **fields)).eval())
    first, second = models
    head = first.backbone.pretrained_cfg["classifier"]
    states = [model.backbone.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    differ = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert all(name.startswith(head) and num_classes == 3 for name in differ)
    assert second.spec.backbone == words
    assert (first.spec.mean, first.spec.deviation) == (second.spec.mean, second.spec.deviation)
    assert second(torch.zeros(1, *shape)).shape == (1, num_classes)


def test_a_file_of_one_s_own_classes_is_adapted_too(tmp_path, make_spec):
    state = timm.create_model("test_vit", num_classes=3, img_size=32).state_dict()
    save_file(state, tmp_path / "w")
    words = {"name": "timm", "model": "test_vit", "weights": str(tmp_path / "w")}
    model = build_model(make_spec(backbone=words, image_shape=(2, 48, 48)))
    own = model.backbone.state_dict()
    assert torch.equal(own["head.weight"], state["head.weight"])
    assert own["pos_embed"].shape[1] == 10 and state["pos_embed"].shape[1] == 5


def test_files_that_timm_cannot_adapt(tmp_path, make_spec):
    words = {"name": "timm", "model": "test_vit", "weights": str(tmp_path / "w")}
    spec = make_spec(backbone=words, image_shape=(1, 32, 32), **_statistics(1))
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w")
    with pytest.raises(ValueError, match=r"not fit: of another shape head.bias .*; set reset_head"):
        build_model(spec)
    save_file(timm.create_model("test_efficientnet").state_dict(), tmp_path / "w")
    with pytest.raises(ValueError, match=r"do not fit: missing blocks.* unexpected .*more$"):
        build_model(spec)


def test_networks_without_weights():
    with pytest.raises(ValueError, match="timm has no weights for 'seresnet18'; leave pretrained"):
        timm_model(10, 3, model="seresnet18", pretrained=True)


def _statistics(channels):
    return {"mean": (0.5,) * channels, "deviation": (0.25,) * channels}
