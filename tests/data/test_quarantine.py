"""What cannot be used is put aside with its reason, and nothing gets lost, whatever the bytes."""

import io
import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.config import DataConfig
from components.data.index import INDEX, SPLITS, read_index
from components.data.placing import QUARANTINE
from components.data.prepare import prepare
from components.data.reading import read_shards


def lenient(root, **changes):
    chosen = {"validation_share": 0.25, "max_broken": 1.0}
    return DataConfig(source={"name": "folder", "root": str(root)}, **chosen | changes)


def aside(folder):
    lines = (folder / QUARANTINE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def ids(folder, split):
    return [row.id for row in read_shards(folder, split)]


def test_a_broken_image_is_put_aside(tiny_root, tmp_path):
    (tiny_root / "test" / "bee" / "001.png").write_bytes(b"")
    figures = prepare(lenient(tiny_root), tmp_path / "shards")
    assert figures["test_images"] == 7 and figures["quarantined_images"] == 1
    assert aside(tmp_path / "shards") == [
        {"name": "test/bee/001.png", "split": "test", "class": "bee", "reason": "has no bytes"}
    ]


def test_the_others_stay_where_they_were(tiny_root, tmp_path):
    prepare(lenient(tiny_root), tmp_path / "whole")
    (tiny_root / "train" / "bee" / "007.png").write_bytes(b"not an image")
    prepare(lenient(tiny_root), tmp_path / "broken")
    left = {split: ids(tmp_path / "broken", split) for split in SPLITS}
    for split in SPLITS:
        whole = ids(tmp_path / "whole", split)
        assert [id for id in whole if id in left[split]] == left[split]
    assert sum(map(len, left.values())) == 39


def test_too_many_broken_images_fail_the_step(tiny_root, tmp_path):
    for number in range(5):
        (tiny_root / "train" / "bee" / f"{number:03d}.png").write_bytes(b"x" * number)
    message = (
        r"^5 of 40 images are unusable, more than max_broken 0\.1: "
        r"train/bee/000\.png has no bytes; train/bee/001\.png is no readable image: [^;]*; "
        r"train/bee/002\.png is no readable image: [^;]*; all are listed in .*quarantine\.jsonl$"
    )
    with pytest.raises(ValueError, match=message):
        prepare(lenient(tiny_root, max_broken=0.1), tmp_path / "shards")
    assert len(aside(tmp_path / "shards")) == 5
    assert not (tmp_path / "shards" / INDEX).exists()
    prepare(lenient(tiny_root, max_broken=0.125), tmp_path / "shards")


def test_repeated_pixels_stay_once(tiny_root, tmp_path):
    copy = tiny_root / "train" / "bee" / "zzz.bmp"  # other bytes, same pixels
    Image.open(tiny_root / "train" / "bee" / "003.png").save(copy)
    shutil.copy(tiny_root / "test" / "bee" / "001.png", tiny_root / "test" / "bee" / "100.png")
    figures = prepare(lenient(tiny_root, max_broken=0.0), tmp_path / "shards")
    found = {entry["name"]: entry["reason"] for entry in aside(tmp_path / "shards")}
    assert found == {
        "train/bee/zzz.bmp": "has the pixels of train/bee/003.png",
        "test/bee/100.png": "has the pixels of test/bee/001.png",
    }
    assert figures["quarantined_images"] == 2 and figures["test_images"] == 8


def test_contradicting_labels_are_all_put_aside(tiny_root, tmp_path):
    original = tiny_root / "train" / "bee" / "003.png"
    shutil.copy(original, tiny_root / "train" / "bee" / "100.png")
    shutil.copy(original, tiny_root / "train" / "ant" / "100.png")
    prepare(lenient(tiny_root), tmp_path / "shards")
    found = {entry["name"]: entry["reason"] for entry in aside(tmp_path / "shards")}
    other = "has the pixels of train/ant/100.png, which is labelled ant"
    assert found["train/bee/003.png"] == found["train/bee/100.png"] == other
    assert found["train/ant/100.png"] == (
        "has the pixels of train/bee/003.png, which is labelled bee"
    )
    assert len(found) == 3


def test_what_is_tested_on_is_not_trained_on(tiny_root, tmp_path):
    for number in (1, 2):
        name = tiny_root / "train" / "ant" / f"copy {number}.png"
        shutil.copy(tiny_root / "test" / "ant" / "001.png", name)
    prepare(lenient(tiny_root), tmp_path / "shards")
    found = {entry["name"]: entry["reason"] for entry in aside(tmp_path / "shards")}
    assert found == {
        "train/ant/copy 1.png": "has the pixels of test/ant/001.png, which is in the test split",
        "train/ant/copy 2.png": "has the pixels of train/ant/copy 1.png",
    }
    assert len(ids(tmp_path / "shards", "test")) == 8


def test_a_class_that_nothing_is_left_of_is_named(tiny_root, tmp_path):
    for path in (tiny_root / "train" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="class 'cat' has no training images left"):
        prepare(lenient(tiny_root), tmp_path / "shards")


def test_small_images_are_kept_unless_the_settings_say_no(tiny_root, tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tiny_root / "train" / "ant" / "dot.png")
    kept = prepare(lenient(tiny_root, image_size=4), tmp_path / "kept")
    assert kept["quarantined_images"] == 0
    prepare(lenient(tiny_root, image_size=4, min_side=2), tmp_path / "left")
    assert [entry["reason"] for entry in aside(tmp_path / "left")] == [
        "is too small: 1x1 pixels, min_side is 2"
    ]


def encoded(kind):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")}


@st.composite
def spoiled(draw):
    """Bytes of an image: some of them changed, the end cut off, or a piece repeated."""
    content = bytearray(WHOLE[draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    start, stop = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    match draw(st.sampled_from(("as it is", "cut", "doubled", "taken out"))):
        case "cut":
            del content[start:]
        case "doubled":
            content[stop:stop] = content[start:stop]
        case "taken out":
            del content[start:stop]
    return bytes(content)


def made(root, files, labels):
    for split, count in (("train", 12), ("test", 3)):
        (root / split).mkdir()
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
            pixels[0, 0] = split == "test"
            Image.fromarray(pixels).save(root / split / f"{number}.png")
    for number, content in enumerate(files):
        (root / "train" / f"spoiled {number}.png").write_bytes(content)
        labels += b"\n" + f"spoiled {number}.png {number % 2}\n".encode()
    (root / "train.txt").write_bytes(labels)
    (root / "test.txt").write_text("0.png 0\n1.png 1\n2.png 1\n")
    return {
        "name": "label_file", "root": str(root), "num_classes": 2,
        "train": "train", "train_labels": "train.txt", "test": "test", "test_labels": "test.txt",
    }  # fmt: skip


# The first four lines stay as they are, so that there is always something to train on.
LABELS = b"".join(b"%d.png %d\n" % (number, number % 2) for number in range(12))
FIXED = 4 * len(b"0.png 0\n")


@settings(max_examples=40, phases=(Phase.explicit, Phase.generate))
@given(data=st.data())
def test_whatever_the_bytes_nothing_is_lost(data):
    files = data.draw(st.lists(spoiled(), max_size=6))
    labels = bytearray(LABELS)
    for _ in range(data.draw(st.integers(0, 3))):
        labels[data.draw(st.integers(FIXED, len(labels) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "source"
        root.mkdir()
        chosen = lenient(root, image_size=4, validation_share=0.5)
        source = made(root, files, bytes(labels))
        try:
            figures = prepare(replace(chosen, source=source), Path(name) / "out")
        except ValueError as error:
            # A line of the list may be spoiled into one that contradicts the fixed ones.
            assert re.search("no training images|no images left|no image to validate", str(error))
            return
        index = read_index(Path(name) / "out")
        written = sum(len(ids(Path(name) / "out", split)) for split in SPLITS)
        assert written == sum(content.num_images for content in index.splits.values())
        put_aside = aside(Path(name) / "out")
        assert len(put_aside) == figures["quarantined_images"]
        # Every file is either written or put aside; some lines of the list name no file.
        missing = {entry["name"] for entry in put_aside}
        assert all(entry["reason"] for entry in put_aside)
        on_disk = {str(p.relative_to(root)) for p in root.rglob("*.png")}
        assert written == len(on_disk - missing)
