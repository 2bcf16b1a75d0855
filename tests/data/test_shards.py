import hashlib
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.index import INDEX, SPLITS, DamagedShard, read_index
from components.data.reading import read_shards
from components.data.shards import Example, write_shards

CLASSES = ("ant", "bee", "cat")


def random_examples(splits, *, shape=(4, 5, 3), seed=0):
    random = np.random.default_rng(seed)
    return [
        Example(
            split,
            int(random.integers(len(CLASSES))),
            random.integers(0, 256, shape, dtype=np.uint8),
            f"image {number}",
        )
        for number, split in enumerate(splits)
    ]


def written(folder, examples, shard_images=4):
    return write_shards(folder, examples, classes=CLASSES, shard_images=shard_images)


@pytest.fixture
def shards(tmp_path):
    written(tmp_path, random_examples(["train"] * 10 + ["validation"] * 3 + ["test"] * 5))
    return tmp_path


@settings(deadline=None)  # the machine may be busy
@given(
    splits=st.lists(st.sampled_from(SPLITS), max_size=30).map(lambda drawn: ["train", *drawn]),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from((1, 3))),
    shard_images=st.integers(1, 12),
)
def test_what_is_written_is_read(splits, shape, shard_images):
    examples = random_examples(splits, shape=shape)
    with tempfile.TemporaryDirectory() as name:
        index = written(Path(name), iter(examples), shard_images)
        assert read_index(Path(name)) == index
        rows = {split: list(read_shards(Path(name), split)) for split in SPLITS}
    for split in SPLITS:
        expected = [example for example in examples if example.split == split]
        assert [row.label for row in rows[split]] == [example.label for example in expected]
        for row, example in zip(rows[split], expected, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(row.image))).reshape(shape)
            assert np.array_equal(pixels, example.pixels)
            assert (row.height, row.width) == shape[:2]
        assert index.splits[split].num_images == len(expected)
        labels = Counter(example.label for example in expected)
        assert index.splits[split].counts == tuple(labels[label] for label in range(3))
    assert all(0 < shard.rows <= shard_images for shard in index.shards)
    assert index.image_shape == (shape[2], *shape[:2])


def test_row_groups_stay_small_in_large_shards(tmp_path):
    examples = random_examples(["train"] * 600, shape=(1, 1, 1))
    (shard,) = written(tmp_path, examples, shard_images=1000).shards
    groups = pq.ParquetFile(tmp_path / shard.file).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [256, 256, 88]


def test_statistics_are_numpys_over_the_training_split(tmp_path):
    examples = random_examples(["test", "train", "validation"] * 8)
    index = written(tmp_path, examples)
    training = np.stack([example.pixels for example in examples if example.split == "train"]) / 255
    assert index.mean == pytest.approx(training.mean((0, 1, 2)), rel=1e-13)
    assert index.deviation == pytest.approx(training.std((0, 1, 2)), rel=1e-13)


def test_statistics_of_known_pixels(tmp_path):
    pixels = np.array([0, 255, 255, 255], np.uint8).reshape(2, 2, 1)
    index = written(tmp_path, [Example("train", 0, pixels, "")])
    assert index.mean == (0.75,)
    assert index.deviation == (pytest.approx(3**0.5 / 4, rel=1e-15),)


def test_ids_are_content(tmp_path):
    pixels = np.arange(12, dtype=np.uint8)
    upright, lying = pixels.reshape(4, 3, 1), pixels.reshape(3, 4, 1)
    ids = []
    for number, shaped in enumerate((upright, upright, lying)):
        written(tmp_path / str(number), [Example("train", number, shaped, "")])
        ids += [row.id for row in read_shards(tmp_path / str(number), "train")]
    assert ids[0] == hashlib.sha256(b"4x3x1:" + pixels.tobytes()).hexdigest()
    assert ids[0] == ids[1] != ids[2]


def test_same_examples_give_the_same_bytes(tmp_path):
    examples = random_examples(["train", "test", "validation"] * 4)
    for name in ("one", "two"):
        written(tmp_path / name, examples)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def changed(examples, number, **changes):
    return [e._replace(**changes) if i == number else e for i, e in enumerate(examples)]


def test_fingerprint_changes_with_content_and_with_nothing_else(tmp_path):
    examples = random_examples(["train", "test", "validation"] * 4)
    first = written(tmp_path / "first", examples).fingerprint
    assert written(tmp_path / "other shards", examples, shard_images=1).fingerprint == first
    pixels = examples[0].pixels.copy()
    pixels[0, 0, 0] ^= 1
    others = {
        "pixel": changed(examples, 0, pixels=pixels),
        "label": changed(examples, 1, label=(examples[1].label + 1) % 3),
        "split": changed(examples, 2, split="test"),
        "order": [examples[3], *examples[1:3], examples[0], *examples[4:]],
        "fewer": examples[:-1],
    }
    found = {name: written(tmp_path / name, other).fingerprint for name, other in others.items()}
    classes = ("ant", "bee", "cow")
    found["classes"] = write_shards(
        tmp_path / "classes", examples, classes=classes, shard_images=4
    ).fingerprint
    assert len({first, *found.values()}) == 1 + len(found)


@settings(deadline=None)  # the machine may be busy
@given(data=st.data())
def test_any_flipped_byte_of_a_shard_is_found(data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = written(folder, random_examples(["train"] * 3, shape=(2, 2, 1)))
        path = folder / index.shards[0].file
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(DamagedShard, match="hash"):
            list(read_shards(folder, "train"))


def test_shortened_and_missing_shards_are_found(shards):
    path = shards / "test-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedShard, match=f"{len(content) - 1} bytes, its index says"):
        list(read_shards(shards, "test"))
    path.unlink()
    with pytest.raises(DamagedShard, match=r"test-00001\.parquet is missing"):
        list(read_shards(shards, "test"))
    assert len(list(read_shards(shards, "train"))) == 10


def test_a_folder_without_index_is_unfinished(tmp_path):
    def interrupted():
        yield from random_examples(["train"] * 6)
        raise RuntimeError("pulled the plug")

    with pytest.raises(RuntimeError, match="plug"):
        written(tmp_path, interrupted())
    assert list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="holds no prepared data"):
        read_index(tmp_path)
    index = written(tmp_path, random_examples(["train"] * 6))
    assert len(list(read_shards(tmp_path, "train"))) == index.splits["train"].num_images == 6


def test_shards_never_change(shards):
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    with pytest.raises(ValueError, match="already holds shards"):
        written(shards, random_examples(["train"]))
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema": 1}', "\x00", '"index"'])
def test_a_foreign_index_is_named(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match="is no index of shards"):
        read_index(tmp_path)


def test_an_index_of_another_schema_is_refused(shards):
    facts = json.loads((shards / INDEX).read_text())
    (shards / INDEX).write_text(json.dumps({**facts, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99, this version reads 2"):
        read_index(shards)


@pytest.mark.parametrize(
    "edit",
    [
        lambda facts: facts["classes"].reverse(),
        lambda facts: facts["mean"].__setitem__(0, 0.5),
        lambda facts: facts["image_shape"].__setitem__(0, 1),
        lambda facts: facts["splits"].pop("test"),
        lambda facts: facts["splits"]["train"]["counts"].__setitem__(0, 1000),
        lambda facts: facts["shards"].pop(),
        lambda facts: facts["shards"][0].update(rows=3),
        lambda facts: facts["shards"][0].update(file="../train-00000.parquet"),
        lambda facts: facts.update(fingerprint="0" * 64),
    ],
)
def test_an_edited_index_is_found(shards, edit):
    facts = json.loads((shards / INDEX).read_text())
    edit(facts)
    (shards / INDEX).write_text(json.dumps(facts))
    with pytest.raises(DamagedShard, match="not what was written"):
        read_index(shards)


def test_images_of_another_shape_are_named(tmp_path):
    examples = random_examples(["train"]) + random_examples(["test"], shape=(4, 6, 3))
    with pytest.raises(ValueError, match=r"image 0 has 3 channels of 4x6 .*before it 3 of 4x5"):
        written(tmp_path, examples)


def test_unknown_splits_are_named(shards):
    with pytest.raises(ValueError, match="unknown split 'dev', expected one of"):
        list(read_shards(shards, "dev"))


def test_no_training_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one training image"):
        written(tmp_path, random_examples(["test"]))
