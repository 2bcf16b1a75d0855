"""Whatever happens to prepared files: the same images come out, or a clear error does."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from components.data.batches import read_split
from components.data.index import INDEX, SPLITS, read_index
from components.data.shards import Example, write_shards
from components.data.stream import Stream
from components.storage import StorageError

CLEAR = (ValueError, StorageError)  # DamagedShard is one of the former


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small data set, and what it holds."""
    folder, random = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    examples = [
        Example(split, number % 2, random.integers(0, 256, (3, 4, 1), np.uint8), str(number))
        for number, split in enumerate(["train"] * 7 + ["validation"] * 2 + ["test"] * 3)
    ]
    write_shards(folder, examples, classes=("a", "b"), shard_images=4)
    return folder, content(folder)


def content(folder):
    """Everything that training and evaluation see of a folder."""
    seen = []
    for split in SPLITS:
        held = read_split(folder, split)
        seen += [held.ids, held.images.tolist(), held.labels.tolist()]
        batches = Stream(folder, split, batch_size=3).epoch(0)
        seen += [(batch.rows.tolist(), batch.images.tolist()) for batch in batches]
    index = read_index(folder)
    return [*seen, index.classes, index.image_shape, index.mean, index.fingerprint]


@st.composite
def damage(draw):
    """Say which file is spoiled, by its rank, and how."""
    kind = draw(st.sampled_from(["flip", "cut", "insert", "double", "empty", "gone"]))
    return draw(st.integers(0, 20)), kind, draw(st.floats(0, 1)), draw(st.integers(0, 255))


def spoil(path, kind, place, byte):
    before = path.read_bytes()
    at = min(int(place * len(before)), len(before) - 1)
    after = {
        "flip": before[:at] + bytes([before[at] ^ (byte or 1)]) + before[at + 1 :],
        "cut": before[:at],
        "insert": before[:at] + bytes([byte]) + before[at:],
        "double": before + before,
        "empty": b"",
    }
    path.unlink()
    if kind != "gone":
        path.write_bytes(after[kind])


@settings(
    max_examples=120,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(harm=damage())
def test_the_same_images_or_a_clear_error(harm, whole, tmp_path):
    folder, expected = whole
    rank, *how = harm
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    files = sorted(path for path in copy.iterdir() if path.suffix in (".json", ".parquet"))
    spoil(files[rank % len(files)], *how)
    try:
        found = content(copy)
    except CLEAR as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert found == expected


@st.composite
def edited(draw, facts):
    """Put some JSON value in the place of another one."""
    path, value = [], facts
    while isinstance(value, dict | list) and value and (not path or draw(st.booleans())):
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        key = draw(st.sampled_from(list(keys)))
        path.append(key)
        value = value[key]
    values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    return path, draw(values | st.lists(values, max_size=3) | st.dictionaries(st.text(), values))


@settings(
    max_examples=150,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_another_value_in_the_index_is_noticed_or_means_nothing(data, whole, tmp_path):
    folder, expected = whole
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    facts = json.loads((copy / INDEX).read_text())
    path, value = data.draw(edited(facts))
    place = facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (copy / INDEX).write_text(json.dumps(facts))
    try:
        found = content(copy)
    except CLEAR as error:
        assert str(error)
    else:
        assert found == expected
