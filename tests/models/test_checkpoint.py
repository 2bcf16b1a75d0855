"""A checkpoint is a folder that rebuilds its model bit for bit, or is refused."""

import errno
import json
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load, save_file

from components.defences import DEFENCES
from components.models.build import build_model
from components.models.checkpoint import (
    STAGES_KEPT,
    WEIGHTS,
    WORDS,
    IncompatibleCheckpoint,
    hash_checkpoint,
    load_checkpoint,
    provenance_of,
    read_provenance,
    save_checkpoint,
)

TIMM = {"name": "timm", "model": "test_efficientnet"}
PROVENANCE = {"stage": "fine-tune-stage-two", "settings": {"epochs": 3, "rate": 0.1}, "note": "é"}


def images():
    return torch.rand(3, 2, 28, 28, generator=torch.Generator().manual_seed(0))


def rewrite(folder, change):
    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    change(words)
    (folder / WORDS).write_text(json.dumps(words), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, make_spec):
    torch.manual_seed(0)
    save_checkpoint(build_model(make_spec()), tmp_path / "model", provenance=PROVENANCE)
    return tmp_path / "model"


@pytest.mark.parametrize("backbone", [{"name": "lenet5", "widths": (3, 4, 20, 5)}, TIMM])
@pytest.mark.parametrize("defences", [(), *((name,) for name in DEFENCES), tuple(DEFENCES)])
def test_round_trip_bit_for_bit(backbone, defences, tmp_path, make_spec):
    model = build_model(make_spec(backbone=backbone, defences=defences)).train()
    model(images() + 0.1)  # moves running averages, where there are any
    save_checkpoint(model, tmp_path / "a" / "b", provenance={})
    loaded = load_checkpoint(tmp_path / "a" / "b")
    assert loaded.spec == model.spec
    saved, restored = model.state_dict(), loaded.state_dict()
    assert saved.keys() == restored.keys()
    assert all(torch.equal(saved[k], restored[k]) for k in saved)
    assert all(saved[k].dtype == restored[k].dtype for k in saved)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    logits = []
    for network in (model.eval(), loaded):
        torch.manual_seed(0)
        logits.append(network(images()))
    assert torch.equal(*logits)


def test_nothing_in_the_folder_needs_unpickling(folder):
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, WORDS}
    weights = (folder / WEIGHTS).read_bytes()
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert "network.1.conv1.weight" in {f"network.{name}" for name in header}
    json.loads((folder / WORDS).read_text(encoding="utf-8"))


def test_provenance_comes_back(folder):
    assert read_provenance(folder) == PROVENANCE


def test_record_of_a_model_that_learns_for_years_does_not_grow(tmp_path, make_spec):
    model, folder, stages = build_model(make_spec()), None, 0
    for night in range(STAGES_KEPT + 5):
        provenance = {"stage": f"night {night}", **provenance_of(folder)}
        folder = tmp_path / str(night)
        save_checkpoint(model, folder, provenance=provenance)
    while provenance := provenance.get("before"):
        oldest, stages = provenance, stages + 1
    assert stages == STAGES_KEPT and oldest["stage"] == "night 4"
    assert oldest["initial"] == hash_checkpoint(tmp_path / "3")


def test_weights_of_the_file_win(folder):
    """Whatever the generator gave the fresh model."""
    first = load_checkpoint(folder).state_dict()
    torch.manual_seed(99)
    second = load_checkpoint(folder).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_saving_anew_replaces_the_old(folder, make_spec):
    spec = make_spec(classes=("yes", "no"))
    model = build_model(spec)
    save_checkpoint(model, folder, provenance={"stage": "later"})
    loaded = load_checkpoint(folder)
    assert loaded.spec == spec and read_provenance(folder) == {"stage": "later"}
    assert torch.equal(loaded(images()), model.eval()(images()))


@contextmanager
def room_for(size_bytes):
    """Let no file grow beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("cut_short", [WEIGHTS, WORDS])
def test_without_room_the_checkpoint_before_stays(cut_short, folder, make_spec):
    before, model = load_checkpoint(folder), build_model(make_spec(classes=("yes", "no")))
    size = (folder / WEIGHTS).stat().st_size
    note = "é" * size if cut_short == WORDS else ""
    complaint = f"cannot write the checkpoint {folder}: .*; make room and start again"
    with (
        room_for(size // 2 if cut_short == WEIGHTS else size),
        pytest.raises(OSError, match=complaint) as caught,
    ):
        save_checkpoint(model, folder, provenance={"note": note})
    assert caught.value.errno == errno.EFBIG
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, WORDS}
    after = load_checkpoint(folder)
    assert after.spec == before.spec and read_provenance(folder) == PROVENANCE
    saved, restored = before.state_dict(), after.state_dict()
    assert all(torch.equal(saved[name], restored[name]) for name in saved | restored)
    save_checkpoint(model, folder, provenance={})
    assert load_checkpoint(folder).spec == model.spec


def test_a_place_where_no_folder_can_be_is_named(tmp_path, make_spec):
    (tmp_path / "model").write_text("in the way")
    with pytest.raises(OSError, match=f"cannot write the checkpoint {tmp_path / 'model'}: File ex"):
        save_checkpoint(build_model(make_spec()), tmp_path / "model", provenance={})


def test_provenance_that_is_no_json_spares_what_was_there(folder, make_spec):
    before = hash_checkpoint(folder)
    with pytest.raises(TypeError):
        save_checkpoint(build_model(make_spec()), folder, provenance={"where": folder})
    assert hash_checkpoint(folder) == before and load_checkpoint(folder)


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def transpose(folder):
    weights = load((folder / WEIGHTS).read_bytes())
    weights["1.dense4.weight"] = weights["1.dense4.weight"].T.contiguous()
    save_file(weights, folder / WEIGHTS)


def drop_a_weight(folder):
    weights = load((folder / WEIGHTS).read_bytes())
    del weights["1.dense4.bias"]
    save_file(weights, folder / WEIGHTS)


def pickle_the_weights(folder):
    torch.save(load((folder / WEIGHTS).read_bytes()), folder / WEIGHTS)


DAMAGE = {
    "no folder": shutil.rmtree,
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no words": lambda folder: (folder / WORDS).unlink(),
    "weights cut short": lambda folder: truncate(folder / WEIGHTS),
    "words cut short": lambda folder: truncate(folder / WORDS),
    "weights empty": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "words not text": lambda folder: (folder / WORDS).write_bytes(b"\xff\xfe\x80"),
    "words a list": lambda folder: (folder / WORDS).write_text("[]"),
    "words a number": lambda folder: (folder / WORDS).write_text("1"),
    "words of another program": lambda folder: (folder / WORDS).write_text('{"model": 1}'),
    "weights pickled": pickle_the_weights,
    "a weight of another shape": transpose,
    "a weight missing": drop_a_weight,
    "later format": lambda folder: rewrite(folder, lambda words: words.update(format=2)),
    "no spec": lambda folder: rewrite(folder, lambda words: words.pop("spec")),
    "spec a word": lambda folder: rewrite(folder, lambda words: words.update(spec="lenet5")),
    "spec incomplete": lambda folder: rewrite(folder, lambda words: words["spec"].pop("mean")),
    "more classes": lambda folder: rewrite(folder, lambda w: w["spec"]["classes"].append("fox")),
    "other backbone": lambda folder: rewrite(folder, lambda w: w["spec"].update(backbone=TIMM)),
    "unknown backbone": lambda folder: rewrite(folder, lambda w: w["spec"].update(backbone="x")),
    "unknown defence": lambda folder: rewrite(folder, lambda w: w["spec"].update(defences=["x"])),
    "wrong option": lambda folder: rewrite(
        folder, lambda w: w["spec"]["backbone"].update(widths=["a", 4, 64, 5])
    ),
    "defence that is not in the weights": lambda folder: rewrite(
        folder, lambda w: w["spec"].update(defences=["gradient_concealment"])
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.usefixtures("unchecked_types")
def test_damaged_checkpoints_are_refused(damage, folder):
    damage(folder)
    with pytest.raises(IncompatibleCheckpoint, match=str(folder)):
        load_checkpoint(folder)


def test_a_later_format_is_named(folder):
    rewrite(folder, lambda words: words.update(format=2))
    with pytest.raises(IncompatibleCheckpoint, match="has format 2, this version reads 1"):
        load_checkpoint(folder)


def test_hash_names_spec_and_weights_and_nothing_else(folder, tmp_path, make_spec):
    model = load_checkpoint(folder)
    hashes = [hash_checkpoint(folder)]
    save_checkpoint(model, tmp_path / "again", provenance={"stage": "another"})
    assert hash_checkpoint(tmp_path / "again") == hashes[0]
    for number, parameter in enumerate(model.parameters()):
        first = (0,) * parameter.ndim
        value = parameter.data[first].clone()
        parameter.data[first] = torch.nextafter(value, torch.tensor(2.0))
        save_checkpoint(model, tmp_path / str(number), provenance=PROVENANCE)
        hashes.append(hash_checkpoint(tmp_path / str(number)))
        parameter.data[first] = value
    changes = {"mean": (0.2, 0.41), "classes": ("cat", "dog", "elk")}
    for field, value in changes.items():
        changed = build_model(make_spec(**{field: value}))
        changed.load_state_dict(model.state_dict())
        save_checkpoint(changed, tmp_path / field, provenance=PROVENANCE)
        hashes.append(hash_checkpoint(tmp_path / field))
    assert len(set(hashes)) == len(hashes) == 1 + 8 + 2
    assert all(len(digest) == 64 for digest in hashes)
