import io
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from components.data.sources import SOURCES, digits, folder


def decoded(record):
    return np.asarray(Image.open(io.BytesIO(record.read())))


@pytest.fixture(scope="module")
def listed():
    return list(digits().records())


def test_digits_are_scikit_learns(listed):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    assert [record.class_name for record in listed] == [str(label) for label in bunch["target"]]
    for record, grey in zip(listed, bunch["images"], strict=True):
        # Half steps fall on even and odd values alike, so compare with a tolerance of one half.
        assert np.abs(decoded(record) - grey * 255 / 16).max() <= 0.5


def test_digits_split_is_stratified_to_less_than_one_image(listed):
    sizes = Counter(record.split for record in listed)
    assert sizes == {"train": 1297, "test": 500}
    classes = Counter(record.class_name for record in listed)
    tested = Counter(record.class_name for record in listed if record.split == "test")
    for name, size in classes.items():
        assert abs(tested[name] - Fraction(500 * size, 1797)) < 1


def test_first_test_digits_are_a_fair_sample(listed):
    tested = [record.class_name for record in listed if record.split == "test"]
    assert set(Counter(tested[:100]).values()) <= set(range(6, 16))


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_lists_the_same_twice(name, tiny_root):
    source = SOURCES[name](**({"root": str(tiny_root)} if name == "folder" else {}))
    first, second = (
        [(record.split, record.class_name, record.origin) for record in source.records()]
        for _ in range(2)
    )
    assert first == second
    assert {name for _, name, _ in first} == set(source.classes)


def test_folder_gives_every_file_once(tiny_root):
    records = list(folder(root=str(tiny_root)).records())
    files = {str(path) for path in tiny_root.rglob("*.png")}
    assert sorted(record.origin for record in records) == sorted(files)
    for record in records:
        assert f"/{record.split}/{record.class_name}/" in record.origin


def test_every_prefix_of_a_folder_is_in_proportion(tiny_root):
    names = [r.class_name for r in folder(root=str(tiny_root)).records() if r.split == "train"]
    sizes = Counter(names)
    for length in range(len(names) + 1):
        seen = Counter(names[:length])
        for name, size in sizes.items():
            assert abs(seen[name] - length * size / len(names)) <= 1.5


def test_folder_reads_lazily(tiny_root):
    records = folder(root=str(tiny_root)).records()
    first = next(records)
    (tiny_root / "train" / "bee" / "019.png").write_bytes(b"")
    assert decoded(first).shape == (6, 5, 3)


def test_hidden_files_are_no_images(tiny_root):
    (tiny_root / "train" / "ant" / ".thumbnail").touch()
    (tiny_root / "train" / ".cache").touch()
    assert len(list(folder(root=str(tiny_root)).records())) == 40


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "train" / "notes.txt").touch(), "holds notes.txt"),
        (lambda root: (root / "train" / "ant" / "notes.txt").touch(), "notes.txt is none of .png"),
        (lambda root: (root / "test" / "yak").mkdir(), "yak is a class that .*train does not have"),
        (lambda root: (root / "test").rename(root / "exam"), "test must be a folder .* is missing"),
        (lambda root: (root / "train" / "ant" / "more.png").mkdir(), "more.png is none of"),
    ],
)
def test_what_does_not_belong_is_named(tiny_root, spoil, message):
    spoil(tiny_root)
    with pytest.raises(ValueError, match=message):
        list(folder(root=str(tiny_root)).records())
