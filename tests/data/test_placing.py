"""Shards that are kept elsewhere lie under their content, and are made once."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from components.data import prepare as preparing
from components.data.config import DataConfig
from components.data.index import INDEX, read_index
from components.data.placing import CARD, QUARANTINE
from components.data.prepare import prepare
from components.storage import open_folder


@pytest.fixture
def decoded(monkeypatch):
    """Count how often an image is decoded."""
    calls = []
    whole = preparing.decode

    def counted(content, shaping):
        calls.append(1)
        return whole(content, shaping)

    monkeypatch.setattr(preparing, "decode", counted)
    return calls


@pytest.fixture
def chosen(tiny_root, tmp_path):
    (tiny_root / "train" / "ant" / "note.txt").touch()
    return DataConfig(
        source={"name": "folder", "root": str(tiny_root)},
        target=str(tmp_path / "store"),
        validation_share=0.25,
        max_broken=0.1,
    )


def files(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_shards_lie_under_their_content(chosen, tmp_path):
    prepare(chosen, tmp_path / "out")
    index = read_index(tmp_path / "out")
    place = tmp_path / "store" / index.fingerprint / "raw-4096"
    assert index.location == str(place)
    assert {path.name for path in place.iterdir()} == {
        INDEX,
        *(shard.file for shard in index.shards),
    }
    assert replace(index, location="") == read_index(place)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {INDEX, CARD, QUARANTINE}


def test_an_unchanged_source_is_not_read_again(chosen, tmp_path, decoded, capsys):
    first = prepare(chosen, tmp_path / "one")
    assert len(decoded) >= 40
    store = files(tmp_path / "store")
    decoded.clear()
    capsys.readouterr()
    assert prepare(chosen, tmp_path / "two") == first
    assert not decoded and files(tmp_path / "store") == store
    assert "the source is unchanged" in capsys.readouterr().out
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_other_settings_and_other_files_are_other_shards(chosen, tiny_root, tmp_path):
    prepare(chosen, tmp_path / "first")
    first = read_index(tmp_path / "first")
    prepare(replace(chosen, seed=1), tmp_path / "seed")
    prepare(replace(chosen, shard_images=5), tmp_path / "sizes")
    Image.fromarray(np.full((6, 5, 3), 7, np.uint8)).save(tiny_root / "train" / "ant" / "x.png")
    prepare(chosen, tmp_path / "more")
    found = {name: read_index(tmp_path / name) for name in ("seed", "sizes", "more")}
    assert found["sizes"].fingerprint == first.fingerprint
    assert found["sizes"].location != first.location
    assert len({first.fingerprint, found["seed"].fingerprint, found["more"].fingerprint}) == 3


def test_the_same_content_from_elsewhere_is_not_written_again(chosen, tiny_root, tmp_path):
    prepare(chosen, tmp_path / "one")
    moved = tiny_root.rename(tmp_path / "moved")
    index = read_index(tmp_path / "one")
    shards = files(tmp_path / "store" / index.fingerprint)
    prepare(replace(chosen, source={"name": "folder", "root": str(moved)}), tmp_path / "two")
    assert read_index(tmp_path / "two") == index
    assert files(tmp_path / "store" / index.fingerprint) == shards


@pytest.mark.parametrize("lost", ["shard", "cut shard", "index", "card"])
def test_what_got_lost_is_made_again(chosen, tmp_path, lost):
    prepare(chosen, tmp_path / "one")
    index = read_index(tmp_path / "one")
    place = tmp_path / "store" / index.fingerprint / "raw-4096"
    shard = place / index.shards[0].file
    whole = shard.read_bytes()
    if lost == "shard":
        shard.unlink()
    elif lost == "cut shard":
        shard.write_bytes(whole[:-1])
    elif lost == "index":
        (place / INDEX).unlink()
    else:
        next((tmp_path / "store" / "sources").rglob(CARD)).unlink()
    prepare(chosen, tmp_path / "two")
    assert read_index(tmp_path / "two") == index and shard.read_bytes() == whole
    assert (tmp_path / "two" / CARD).is_file()


def test_a_killed_run_leaves_nothing_that_looks_finished(chosen, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    settings = replace(chosen, shard_images=3)
    monkeypatch.setattr("components.data.shards.write_index", kill)
    with pytest.raises(Killed):
        prepare(settings, tmp_path / "one")
    assert not list((tmp_path / "store").rglob(INDEX))
    assert not (tmp_path / "store" / "sources").exists()
    sent = files(tmp_path / "store")
    assert sent
    monkeypatch.undo()
    prepare(settings, tmp_path / "two")
    after = files(tmp_path / "store")
    assert {name: after[name] for name in sent} == sent  # nothing was sent twice


def test_a_bucket_holds_the_same(chosen, tmp_path, bucket, decoded):
    prepare(chosen, tmp_path / "local")
    in_bucket = replace(chosen, target=f"{bucket}/prepared")
    prepare(in_bucket, tmp_path / "one")
    local, one = read_index(tmp_path / "local"), read_index(tmp_path / "one")
    assert one.location == f"{bucket}/prepared/{one.fingerprint}/raw-4096"
    assert replace(one, location="") == replace(local, location="")
    decoded.clear()
    prepare(in_bucket, tmp_path / "two")
    assert not decoded and read_index(tmp_path / "two") == one


def test_the_card_says_what_is_in_and_what_is_not(chosen, tmp_path):
    prepare(chosen, tmp_path / "out")
    page = " ".join((tmp_path / "out" / CARD).read_text(encoding="utf-8").split())
    index = read_index(tmp_path / "out")
    for text in (
        index.fingerprint, "40 images of 3 classes, colour, 5 × 6 pixels. 1 more was put aside.",
        "train/ant/note.txt", "is none of .png", "ant", "bee", "cat", f"{index.mean[0]:.4f}",
    ):  # fmt: skip
        assert text in page
    assert page.count("data:image/png;base64,") == 7 + 8 + 2  # at most eight of each class
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    facts = json.loads((tmp_path / "out" / QUARANTINE).read_text())
    assert facts["name"] == "train/ant/note.txt"


def test_cropped_images_of_many_sizes(tiny_root, tmp_path):
    """Training images keep their shape; the others are cut to one."""
    generator = np.random.default_rng(0)
    for number, path in enumerate(sorted(tiny_root.rglob("*.png"))):
        pixels = generator.integers(0, 256, (80 + number, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    settings = DataConfig(
        source={"name": "folder", "root": str(tiny_root)},
        image_size=70, resize="crop", keep_larger=True, validation_share=0.25,
    )  # fmt: skip
    prepare(settings, tmp_path / "out")
    index = read_index(tmp_path / "out")
    assert index.image_shape == (3, 70, 70)
    assert (index.training_side, index.encoding) == (80, "jpeg")
    prepare(replace(settings, keep_larger=False), tmp_path / "cut")
    assert read_index(tmp_path / "cut").training_side == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": "crop"}, 'resize "crop" needs an image_size above 0'),
        ({"resize": "crop", "image_size": 9, "shorter_side": 8}, "must be at least image_size 9"),
        ({"keep_larger": True}, 'need resize "crop"'),
        ({"shorter_side": 8}, 'need resize "crop"'),
        ({"resize": "stretch"}, "resize must be one of squash, crop"),
        ({"encoding": "gif"}, "encoding must be one of auto, raw, png, jpeg"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(source={"name": "digits"}, **changes)


def test_a_source_in_a_bucket_is_the_same(chosen, tiny_root, tmp_path, bucket):
    prepare(chosen, tmp_path / "local")
    folder = open_folder(f"{bucket}/source")
    for path in tiny_root.rglob("*.*"):
        folder.upload(path, str(path.relative_to(tiny_root)))
    prepare(
        replace(chosen, target="", source={"name": "folder", "root": f"{bucket}/source"}),
        tmp_path / "out",
    )
    assert read_index(tmp_path / "out").fingerprint == read_index(tmp_path / "local").fingerprint
