"""Weights of files: every form that is read, what is refused, and in which words."""

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from components.defences import DEFENCES
from components.models.build import build_model
from components.models.checkpoint import WEIGHTS, WORDS, load_checkpoint, save_checkpoint
from components.models.lenet import lenet5
from components.models.weights import Source, divide_choice, take_weights
from components.storage import open_folder

WIDTHS = [3, 4, 64, 5]
RAMP = torch.tensor([0.0, 1.0, 2.0])
FORMS = ["safetensors", "torch", "older torch", "state_dict", "model", "parallel"]


def network(num_classes=3, in_channels=2):
    return lenet5(num_classes, in_channels, widths=WIDTHS)


def written(state, path, form):
    """Write weights as training scripts do."""
    if form == "safetensors":
        save_file(state, path)
    elif form == "torch":
        torch.save(state, path)
    elif form == "older torch":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, form: state}, path)
    return str(path)


def choice(weights, **options):
    return {"name": "lenet5", "widths": WIDTHS, "weights": str(weights), **options}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_read(form, tmp_path, make_spec):
    state = network().state_dict()
    address = written(state, tmp_path / "weights.bin", form)
    model = build_model(make_spec(backbone=choice(address)))
    assert same(model.backbone.state_dict(), state)
    assert model.spec == make_spec(backbone={"name": "lenet5", "widths": WIDTHS})


def test_a_path_without_folder(tmp_path, make_spec, monkeypatch):
    written(network().state_dict(), tmp_path / "mine.pt", "torch")
    monkeypatch.chdir(tmp_path)
    assert build_model(make_spec(backbone=choice("mine.pt")))


def test_files_and_checkpoints_in_a_bucket(bucket, tmp_path, make_spec):
    model, folder = build_model(make_spec(mean=(0.1, 0.2))), open_folder(bucket)
    folder.write("some/where.safetensors", save(network().state_dict() | {"conv1.bias": RAMP}))
    found = build_model(make_spec(backbone=choice(f"{bucket}/some/where.safetensors")))
    assert torch.equal(found.backbone.conv1.bias, RAMP)
    save_checkpoint(model, tmp_path, provenance={})
    for file in (WEIGHTS, WORDS):
        folder.upload(tmp_path / file, f"run.1/{file}")
    found = build_model(make_spec(backbone=choice(f"{bucket}/run.1")))
    assert same(found.backbone.state_dict(), model.backbone.state_dict())
    assert found.spec.mean == (0.1, 0.2)
    with pytest.raises(ValueError, match=r"weights cannot be read: .*else.pt does not exist; give"):
        build_model(make_spec(backbone=choice(f"{bucket}/else.pt")))


@pytest.mark.parametrize("defences", [(), *((name,) for name in DEFENCES), tuple(DEFENCES)])
def test_checkpoints_of_ours(defences, tmp_path, make_spec):
    """Only the network is taken, and what it was normalised by; defences are one's own."""
    theirs = make_spec(mean=(0.1, 0.3), deviation=(0.7, 0.6), defences=defences)
    model = build_model(theirs)
    save_checkpoint(model, tmp_path / "first.one", provenance={})
    found = build_model(make_spec(backbone=choice(tmp_path / "first.one")))
    assert same(found.backbone.state_dict(), model.backbone.state_dict())
    assert (found.spec.mean, found.spec.deviation, found.spec.defences) == (
        (0.1, 0.3),
        (0.7, 0.6),
        (),
    )
    save_checkpoint(found, tmp_path / "second", provenance={})
    assert same(load_checkpoint(tmp_path / "second").state_dict(), found.state_dict())


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "lenet5", "widths": WIDTHS},
        {"name": "resnet18", "widths": [4, 4, 4, 4]},
        {"name": "se_resnet", "widths": [4, 4, 4, 4]},
        {"name": "convnext_tiny", "depths": [1, 1, 1, 1], "widths": [4, 4, 4, 4]},
        {"name": "timm", "model": "test_efficientnet"},
        {"name": "timm", "model": "test_vit"},
    ],
    ids=lambda words: words.get("model", words["name"]),
)
def test_a_classifier_for_other_classes_starts_afresh(backbone, tmp_path, make_spec):
    size = 28 if backbone["name"] == "lenet5" else 32
    spec = make_spec(backbone=backbone, image_shape=(2, size, size))
    state = build_model(spec).backbone.state_dict()
    torch.save(state, tmp_path / "weights.pt")
    wanted = {**backbone, "weights": str(tmp_path / "weights.pt")}
    other = tuple(map(str, range(120)))
    spec = make_spec(backbone=wanted, image_shape=(2, size, size), classes=other)
    with pytest.raises(ValueError, match=r"of another shape .*; set reset_head to let the classif"):
        build_model(spec)
    spec = make_spec(
        backbone={**wanted, "reset_head": True}, image_shape=(2, size, size), classes=other
    )
    torch.manual_seed(0)
    found = build_model(spec)
    own = found.backbone.state_dict()
    fresh = {name for name in own if not torch.equal(own[name], state[name])}
    assert 1 <= len(fresh) <= 3 and found.spec.backbone == backbone
    assert found(torch.zeros(2, 2, size, size)).shape == (2, 120)


def test_a_head_that_would_fit_is_reset_all_the_same(tmp_path, make_spec):
    state = network().state_dict()
    address = written(state, tmp_path / "w.pt", "torch")
    own = build_model(make_spec(backbone=choice(address, reset_head=True))).backbone.state_dict()
    assert {name for name in own if not torch.equal(own[name], state[name])} == {"dense4.weight"}


def test_older_files_without_counts_of_batches(tmp_path):
    torch.manual_seed(0)
    old, new = (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)) for _ in range(2))
    state = {name: value for name, value in old.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pt")
    assert take_weights(new, Source(str(tmp_path / "w.pt"), reset_head=False)) is None
    assert same(new.state_dict(), old.state_dict())


def test_a_network_that_does_not_name_its_head_cannot_reset_it(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="reset_head fits no Linear: it does not name its head"):
        take_weights(nn.Linear(2, 3), Source(str(tmp_path / "w.pt"), reset_head=True))


def test_a_network_of_timm_is_normalised_as_timm_says(tmp_path, make_spec):
    words = {"name": "timm", "model": "test_vit"}
    shape = {"image_shape": (3, 32, 32), "mean": (0.1,) * 3, "deviation": (0.2,) * 3}
    torch.save(
        build_model(make_spec(backbone=words, **shape)).backbone.state_dict(), tmp_path / "w"
    )
    words["weights"] = str(tmp_path / "w")
    spec = build_model(make_spec(backbone=words, **shape)).spec
    assert spec.mean == spec.deviation == (0.5, 0.5, 0.5)


def reshaped(state):
    return state | {"conv1.weight": torch.zeros(3, 3, 5, 5)}


def renamed(state):
    return {f"features.{name}": value for name, value in state.items()}


def shortened(state):
    return {name: value for name, value in state.items() if name != "dense3.bias"}


def lengthened(state):
    return state | {"momentum": torch.zeros(3)}


def headless(state):
    return {name: value for name, value in state.items() if "dense4" not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (reshaped, r"do not fit: of another shape conv1.weight \(\(3, 3, 5, 5\), not \(3, 2, 5,"),
        (
            renamed,
            "do not fit: missing conv1.bias, conv1.weight, conv2.bias and 6 more, unexpected "
            "features.conv1.bias, features.conv1.weight, features.conv2.bias and 6 more$",
        ),
        (shortened, "do not fit: missing dense3.bias$"),
        (lengthened, "do not fit: unexpected momentum$"),
        (headless, "do not fit: missing dense4.bias, dense4.weight; set reset_head"),
    ],
)
def test_weights_of_another_network(change, message, tmp_path):
    mine = network()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    address = written(change(network().state_dict()), tmp_path / "w", "safetensors")
    with pytest.raises(ValueError, match=message) as error:
        take_weights(mine, Source(address, reset_head=False))
    assert address in str(error.value) and "\n" not in str(error.value)
    assert same(mine.state_dict(), before)


def test_a_checkpoint_of_another_backbone_is_named(tmp_path, make_spec):
    save_checkpoint(build_model(make_spec()), tmp_path, provenance={})
    words = {"name": "resnet18", "widths": [4, 4, 4, 4], "weights": str(tmp_path)}
    with pytest.raises(ValueError, match=r'with the backbone {"name": "lenet5", .*} do not fit'):
        build_model(make_spec(backbone=words))


@pytest.mark.parametrize("text", ["[]", "{}", '{"spec": {}}', '{"spec": {"defences": 3}}', "{"])
def test_a_checkpoint_with_damaged_words(text, tmp_path, make_spec):
    save_checkpoint(build_model(make_spec()), tmp_path, provenance={})
    (tmp_path / WORDS).write_text(text)
    with pytest.raises(ValueError, match=r"is no usable checkpoint: |weights cannot be read: "):
        take_weights(network(), Source(str(tmp_path), reset_head=False))


class Opened:
    """What a pickle may do when it is loaded."""

    def __reduce__(self):
        return (open, ("opened", "w"))


@pytest.mark.parametrize(
    "content",
    [
        Opened(),
        {"state_dict": network(), "epoch": 1},
        {"state_dict": {"weight": Opened()}},
    ],
)
def test_nothing_is_unpickled(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pt")
    with pytest.raises(ValueError, match="no undamaged file of tensors alone, and nothing else"):
        take_weights(network(), Source("w.pt", reset_head=False))
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


@pytest.mark.parametrize("form", ["safetensors", "torch", "older torch"])
@pytest.mark.parametrize("kept", [0, 1, 40, 600, 1500])
def test_damaged_files(form, kept, tmp_path):
    path = tmp_path / "w"
    written(network().state_dict(), path, form)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{path} is no undamaged file of tensors alone"):
        take_weights(network(), Source(str(path), reset_head=False))


@pytest.mark.parametrize(
    "content",
    [{}, [], torch.zeros(3), {"epoch": 3}, {"model": {}}, {"model": {"a": 3}}, {0: torch.ones(1)}],
)
def test_files_that_hold_no_weights(content, tmp_path):
    torch.save(content, tmp_path / "w")
    with pytest.raises(ValueError, match="must hold a dictionary of tensors, itself or under one"):
        take_weights(network(), Source(str(tmp_path / "w"), reset_head=False))


@pytest.mark.parametrize("address", ["nowhere.pt", "no/where/weights.safetensors", ".", "gs://a/b"])
def test_addresses_without_weights(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"weights cannot be read: .*; give a safetensors file, a"):
        take_weights(network(), Source(address, reset_head=False))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"weights": 3}, "weights must be of type str, got 3"),
        ({"weights": "w.pt", "reset_head": "yes"}, "reset_head must be of type bool, got 'yes'"),
        ({"reset_head": True}, "reset_head has no effect without weights, a safetensors file"),
        ({"weights": "w.pt", "pretrained": True}, "weights and pretrained exclude each other"),
    ],
)
def test_words_that_do_not_fit_together(words, message):
    with pytest.raises(ValueError, match=message):
        divide_choice({"name": "timm", **words})


def test_words_are_divided():
    plain, source = divide_choice(
        {"name": "timm", "model": "x", "weights": "w", "reset_head": True}
    )
    assert (plain, source) == ({"name": "timm", "model": "x"}, Source("w", reset_head=True))
    assert divide_choice({"name": "lenet5"}) == ({"name": "lenet5"}, Source("", reset_head=False))
