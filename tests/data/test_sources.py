"""Every source reads the files that its publishers give out, and refuses what does not belong."""

import csv
import gzip
import io
import json
import pickle
import struct
from collections import Counter
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.data.sources import SOURCES, Record
from components.data.sources.digits import digits
from components.data.sources.folder import folder

RANDOM = np.random.default_rng(0)


def pixels(count, *shape):
    return RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "PNG")


def save_all(root, names):
    """Write an image per name, and give its pixels; PNG under any name keeps them."""
    images = dict(zip(names, pixels(len(names), 3, 4, 3), strict=True))
    for name, image in images.items():
        save(root / name, image)
    return images


def decoded(source, name):
    return np.asarray(Image.open(io.BytesIO(source.read(name))))


def listed(source):
    """Give (split, class) by name, and the reason by the name of what is refused."""
    records, refused = {}, {}
    for entry in source.records():
        if isinstance(entry, Record):
            assert entry.name not in records
            records[entry.name] = entry.split, entry.class_name
        else:
            refused[entry.name] = entry.reason
    return records, refused


def in_order(source, split):
    """Give pixels and class of a split, in the source's order."""
    records, refused = listed(source)
    assert not refused
    return [(decoded(source, n), kind) for n, (part, kind) in records.items() if part == split]


def check_arrays(source, split, images, labels):
    found = in_order(source, split)
    assert [kind for _, kind in found] == [source.classes[label] for label in labels]
    for (image, _), expected in zip(found, images, strict=True):
        assert np.array_equal(image, expected)


# digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch, source = load_digits(), digits()
    records, _ = listed(source)
    labels = [kind for _, kind in records.values()]
    assert labels == [str(label) for label in bunch["target"]]
    for name, grey in zip(records, bunch["images"], strict=True):
        # Half steps fall on even and odd values alike, so compare with a tolerance of one half.
        assert np.abs(decoded(source, name) - grey * 255 / 16).max() <= 0.5


def test_digits_split_is_stratified_to_less_than_one_image():
    records, _ = listed(digits())
    assert Counter(split for split, _ in records.values()) == {"train": 1297, "test": 500}
    classes = Counter(kind for _, kind in records.values())
    tested = Counter(kind for split, kind in records.values() if split == "test")
    for name, size in classes.items():
        assert abs(tested[name] - Fraction(500 * size, 1797)) < 1


def test_first_test_digits_are_a_fair_sample():
    tested = [kind for split, kind in listed(digits())[0].values() if split == "test"]
    assert set(Counter(tested[:100]).values()) <= set(range(6, 16))


# folder


def test_folder_gives_every_file_once(tiny_root):
    source = folder(root=str(tiny_root))
    records, refused = listed(source)
    assert not refused and source.classes == ("ant", "bee", "cat")
    assert sorted(records) == sorted(
        str(path.relative_to(tiny_root)) for path in tiny_root.rglob("*.png")
    )
    for name, (split, class_name) in records.items():
        assert name.startswith(f"{split}/{class_name}/")
        assert np.array_equal(decoded(source, name), np.asarray(Image.open(tiny_root / name)))


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_folder_of_validation_images_serves_as_test(tiny_root, name):
    (tiny_root / "test").rename(tiny_root / name)
    splits = Counter(split for split, _ in listed(folder(root=str(tiny_root)))[0].values())
    assert splits == {"train": 32, "test": 8}


def test_beside_a_test_validation_images_are_trained_on(tiny_root):
    save_all(tiny_root, ["val/ant/0.png", "val/cat/0.png"])
    splits = Counter(split for split, _ in listed(folder(root=str(tiny_root)))[0].values())
    assert splits == {"train": 34, "test": 8}


def test_without_splits_the_test_is_cut_from_each_class(tmp_path):
    names = [f"{kind}/{number:02d}.png" for kind in ("ant", "bee") for number in range(25)]
    save_all(tmp_path, names)
    records, _ = listed(folder(root=str(tmp_path), test_share=0.2))
    tested = [name for name, (split, _) in records.items() if split == "test"]
    assert tested == [f"{kind}/{number}.png" for kind in ("ant", "bee") for number in range(20, 25)]
    with pytest.raises(ValueError, match="test_share must be above 0 and below 1, got 1"):
        folder(root=str(tmp_path), test_share=1.0)


def test_what_does_not_belong_is_refused(tiny_root):
    save_all(tiny_root, ["train/ant/deeper/0.png", "test/yak/0.png", "train/loose.png"])
    (tiny_root / "train" / "ant" / "notes.txt").touch()
    (tiny_root / "train" / "ant" / ".hidden.png").touch()
    (tiny_root / "README").touch()
    records, refused = listed(folder(root=str(tiny_root)))
    assert len(records) == 40
    assert refused.keys() == {
        "train/ant/deeper/0.png",
        "test/yak/0.png",
        "train/loose.png",
        "train/ant/notes.txt",
    }
    assert refused["test/yak/0.png"] == "is of the class yak, which train lacks"
    assert refused["train/ant/notes.txt"].startswith("is none of .png, .jpg")


def test_folders_of_another_layout_are_named(tmp_path, tiny_root):
    with pytest.raises(ValueError, match="must be a folder with one folder of images per class"):
        folder(root=str(tmp_path / "nothing"))
    (tiny_root / "test").rename(tiny_root / "exam")
    with pytest.raises(ValueError, match="test must be a folder with one folder per class"):
        folder(root=str(tiny_root))


def test_the_state_follows_names_and_contents(tiny_root):
    def state():
        return folder(root=str(tiny_root)).state()

    first = state()
    assert state() == first
    path = tiny_root / "train" / "bee" / "000.png"
    path.write_bytes(path.read_bytes())
    touched = state()
    path.rename(path.with_name("other.png"))
    assert len({first, touched, state()}) == 3


# lists of labels


def test_label_file_is_the_challenges_first_layout(tmp_path):
    names = [f"train_phase1/images/{number}.JPEG" for number in range(6)]
    tested = [f"track1_test1/{number}.png" for number in range(3)]
    images = save_all(tmp_path, names + tested)
    (tmp_path / "train_phase1" / "label.txt").write_text(
        "".join(f"{number}.JPEG {number % 2 * 19}\n" for number in range(6))
    )
    (tmp_path / "test_label.txt").write_text("0.png 19\n1.png 0\n2.png 7\n")
    source = SOURCES["label_file"](root=str(tmp_path))
    records, refused = listed(source)
    assert not refused and source.classes == tuple(map(str, range(20)))
    assert records == {
        **{name: ("train", str(number % 2 * 19)) for number, name in enumerate(names)},
        **dict(zip(tested, [("test", "19"), ("test", "0"), ("test", "7")], strict=True)),
    }
    for name, image in images.items():
        assert np.array_equal(decoded(source, name), image)


def test_label_file_refuses_what_is_wrong(tmp_path):
    save_all(tmp_path, [f"a/{name}.png" for name in ("one", "two", "three", "four", "two words")])
    save_all(tmp_path, ["b/one.png"])
    (tmp_path / "a.txt").write_text(
        "one.png 0\none.png 0\ntwo.png 0\ntwo.png 1\nthree.png 2\n\nfour.png\ngone.png 1\n"
        "two words.png 1\none.png x\n../b/one.png 0\n"
    )
    (tmp_path / "b.txt").write_text("one.png 1\n")
    source = SOURCES["label_file"](
        root=str(tmp_path), train="a", train_labels="a.txt", test="b", test_labels="b.txt",
        num_classes=2, class_names=["cat", "dog"],
    )  # fmt: skip
    entries = list(source.records())
    assert [entry for entry in entries if isinstance(entry, Record)] == [
        Record(split="train", class_name="cat", name="a/one.png"),
        Record(split="train", class_name="dog", name="a/two words.png"),
        Record(split="test", class_name="dog", name="b/one.png"),
    ]
    refused = [(entry.name, entry.reason) for entry in entries if not isinstance(entry, Record)]
    assert sorted(refused) == [
        ("a.txt, line 7", "must be NAME LABEL"),
        ("a/../b/one.png", "has a label, but is missing"),
        ("a/four.png", "has no label"),
        ("a/gone.png", "has a label, but is missing"),
        ("a/one.png", "has the label 'x', which is none of 0..1"),
        ("a/one.png", "is listed more than once"),
        ("a/three.png", "has no label"),
        ("a/three.png", "has the label '2', which is none of 0..1"),
        ("a/two.png", "is listed with the labels 'cat' and 'dog'"),
        ("a/two.png", "is listed with the labels 'cat' and 'dog'"),
    ]
    with pytest.raises(ValueError, match="class_names must be 3 different texts"):
        SOURCES["label_file"](root=str(tmp_path), num_classes=3, class_names=["cat", "cat", "x"])


def challenge(root, train, test):
    names = sorted({name for lists in (train, test) for names in lists.values() for name in names})
    images = save_all(root, [f"train_p2/{name}" for name in names])
    (root / "train.json").write_text(json.dumps(train))
    (root / "val.json").write_text(json.dumps(test))
    return images


def test_challenge_json_is_the_challenges_second_layout(tmp_path):
    train = {str(label): [f"{label * 3 + i}.JPEG" for i in (1, 2)] for label in range(100)}
    test = {str(label): [f"{label * 3}.JPEG"] for label in range(100)}
    images = challenge(tmp_path, train, test)
    source = SOURCES["challenge_json"](root=str(tmp_path))
    records, refused = listed(source)
    assert not refused and len(records) == 300
    for split, lists in (("train", train), ("test", test)):
        for label, names in lists.items():
            for name in names:
                assert records[f"train_p2/{name}"] == (split, label)
    assert all(np.array_equal(decoded(source, name), image) for name, image in images.items())


def test_challenge_json_refuses_overlaps_and_wrong_lists(tmp_path):
    challenge(tmp_path, {"0": ["a.png", "b.png"], "1": ["c.png"]}, {"0": ["b.png"]})
    save_all(tmp_path, ["train_p2/d.png"])
    facts = {"0": ["a.png", "b.png", 7], "1": ["c.png"], "2": ["d.png"], "x": 3}
    (tmp_path / "train.json").write_text(json.dumps(facts))
    source = SOURCES["challenge_json"](root=str(tmp_path), num_classes=2)
    entries = list(source.records())
    assert [(e.split, e.name) for e in entries if isinstance(e, Record)] == [
        ("train", "train_p2/a.png"),
        ("train", "train_p2/c.png"),
        ("test", "train_p2/b.png"),
    ]
    refused = {(entry.name, entry.reason) for entry in entries if not isinstance(entry, Record)}
    assert refused == {
        ("train.json, class '0'", "lists 7, which is no name"),
        ("train.json, class '2'", "is none of 0..1"),
        ("train.json, class 'x'", "is none of 0..1"),
        ("train_p2/d.png", "is listed in train.json, class '2', which does not exist"),
        ("train_p2/b.png", "is listed to train and to test; the test keeps it"),
        ("train_p2/d.png", "has no label"),
    }
    for text, message in (("[1]", "must be"), ("{", "is no JSON"), ("3", "must be")):
        (tmp_path / "val.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            list(source.records())


def write_table(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_with_and_without_splits(tmp_path, suffix):
    names = [f"{number}.png" for number in range(20)]
    images = save_all(tmp_path, [f"pictures/{name}" for name in names])
    rows = [{"path": name, "label": 2 + i % 2 * 8} for i, name in enumerate(names)]
    write_table(tmp_path / f"plain{suffix}", rows)
    options = {"root": str(tmp_path), "images": "pictures"}
    source = SOURCES["table"](file=f"plain{suffix}", **options)
    records, refused = listed(source)
    assert not refused and source.classes == ("2", "10")
    assert [name for name, (split, _) in records.items() if split == "test"] == [
        "pictures/18.png",
        "pictures/19.png",
    ]
    assert {name: kind for name, (_, kind) in records.items()} == {
        f"pictures/{row['path']}": str(row["label"]) for row in rows
    }
    assert all(np.array_equal(decoded(source, name), image) for name, image in images.items())
    for i, row in enumerate(rows):
        row["split"] = "val" if i % 5 == 0 else "train"
    write_table(tmp_path / f"cut{suffix}", rows)
    records, _ = listed(SOURCES["table"](file=f"cut{suffix}", **options))
    assert {name: split for name, (split, _) in records.items()} == {
        f"pictures/{name}": "train" if i % 5 else "test" for i, name in enumerate(names)
    }


def test_table_refuses_what_is_wrong(tmp_path):
    save_all(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "list.csv").write_text(
        "path,label,split\n./a.png,cat,train\nb.png,dog,test\n,cat,train\nc.png,cat,exam\ne.png\n"
        "d.png,cat,test\n"
    )
    records, refused = listed(SOURCES["table"](root=str(tmp_path), file="list.csv"))
    assert records == {"a.png": ("train", "cat"), "d.png": ("test", "cat")}
    assert refused == {
        "b.png": "has no label",
        "list.csv, row 3": "must have a path and a label",
        "list.csv, row 4": "has the split 'exam', not train or test",
        "list.csv, row 5": "must have a path and a label",
        "c.png": "has no label",
    }
    with pytest.raises(ValueError, match="must have a column 'kind', has path, label, split"):
        SOURCES["table"](root=str(tmp_path), file="list.csv", label="kind")
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is no Parquet table"):
        SOURCES["table"](root=str(tmp_path), file="list.parquet")


# arrays


def idx(values):
    return struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(
        f">{values.ndim}I", *values.shape
    ) + values.tobytes()  # fmt: skip


def write_mnist(folder, *, zipped):
    facts = {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, start, count in (("train", "train", 7), ("test", "t10k", 4)):
        images, labels = pixels(count, 28, 28), np.arange(count, dtype=np.uint8)
        facts[split] = images, labels
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(idx(values)) if zipped else idx(values)
            (folder / f"{start}-{name}-ubyte{'.gz' * zipped}").write_bytes(content)
    return facts


@pytest.mark.parametrize(
    ("name", "place", "zipped"),
    [
        ("mnist", "MNIST/raw", False),
        ("mnist", "", True),
        ("fashion_mnist", "FashionMNIST/raw", True),
        ("fashion_mnist", "raw", False),
    ],
)
def test_idx_files(tmp_path, name, place, zipped):
    facts = write_mnist(tmp_path / place, zipped=zipped)
    source = SOURCES[name](root=str(tmp_path))
    assert source.grey and len(source.classes) == 10
    for split, (images, labels) in facts.items():
        check_arrays(source, split, images, labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"\0\0\x0d" + content[3:], "begins with 00 00 0d 03"),
        (lambda content: content[:10], "must be an idx file"),
        (
            lambda content: content[:8] + b"\xff" * 8 + content[16:],
            "images of at most 65536 pixels",
        ),
        (lambda content: content[:-1], "must hold 5488 values, .* and holds fewer"),
        (lambda content: content + b"\0", "must hold 5488 values, .* and holds more"),
        (lambda content: b"", "begins with nothing"),
    ],
)
def test_wrong_idx_files_are_named(tmp_path, change, message):
    write_mnist(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        list(SOURCES["mnist"](root=str(tmp_path)).records())


def test_idx_labels_of_no_class_are_refused(tmp_path):
    write_mnist(tmp_path, zipped=False)
    labels = np.array([0, 1, 10, 255], np.uint8)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    _, refused = listed(SOURCES["mnist"](root=str(tmp_path)))
    assert refused == {
        "test/000002": "has the label 10, not one of 0..9",
        "test/000003": "has the label 255, not one of 0..9",
    }
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[:3]))
    with pytest.raises(ValueError, match="4 images come with 3 labels"):
        list(SOURCES["mnist"](root=str(tmp_path)).records())
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="is no complete gzip file"):
        list(SOURCES["mnist"](root=str(tmp_path)).records())


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, by which the published files were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(value):
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar_rows(images):
    """Lay images out as CIFAR does: all red values, all green ones, all blue ones."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


CIFAR = {
    "cifar10": (
        "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"],
        "batches.meta", b"labels", b"label_names", "cifar-10-batches-bin", "batches.meta.txt",
    ),
    "cifar100": (
        "cifar-100-python", ["train", "test"],
        "meta", b"fine_labels", b"fine_label_names", "cifar-100-binary", "fine_label_names.txt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CIFAR)
@pytest.mark.parametrize("form", ["pickle", "binary", "inside"])
def test_cifar(tmp_path, name, form):
    pickles, files, meta, label_key, names_key, binary, names_file = CIFAR[name]
    classes = [f"kind {i}" for i in range(3)]
    root = tmp_path / (binary if form == "binary" else "" if form == "inside" else pickles)
    root.mkdir(exist_ok=True)
    expected = {"train": ([], []), "test": ([], [])}
    for file in files:
        images, labels = pixels(4, 32, 32, 3), RANDOM.integers(0, 3, 4).tolist()
        if form == "binary":
            coarse = [] if name == "cifar10" else [9]
            content = b"".join(
                bytes([*coarse, label]) + row.tobytes()
                for label, row in zip(labels, cifar_rows(images), strict=True)
            )
            (root / f"{file}.bin").write_bytes(content)
        else:
            batch = {b"data": cifar_rows(images), label_key: labels, b"coarse_labels": [0] * 4}
            (root / file).write_bytes(python2(batch))
        split = expected["test" if file.startswith("test") else "train"]
        split[0].extend(images)
        split[1].extend(labels)
    (root / meta).write_bytes(python2({names_key: [text.encode() for text in classes]}))
    if form == "binary":
        (root / names_file).write_text("\n".join(classes) + "\n\n")
    source = SOURCES[name](root=str(tmp_path), check_md5=False)
    assert source.classes == tuple(classes)
    for split, (images, labels) in expected.items():
        check_arrays(source, split, images, labels)
    if form != "binary":
        with pytest.raises(ValueError, match=r"has the MD5 .*, the published file"):
            SOURCES[name](root=str(tmp_path))


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Evil(), 2), r"it asks for (__builtin__|builtins)\.exec"),
        (pickle.dumps([1]), "must hold a dictionary, holds a list"),
        (b"\x80", "is no pickle of images"),
        (python2({b"label_names": 3}), "must hold the names of the classes"),
    ],
)
def test_pickles_can_do_nothing_else(tmp_path, content, message):
    (tmp_path / "batches.meta").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SOURCES["cifar10"](root=str(tmp_path), check_md5=False)


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((2, 3072), np.float64), b"labels": [0, 0]},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, "x"]},
        {b"labels": [0]},
    ],
)
def test_batches_of_another_form_are_named(tmp_path, batch):
    (tmp_path / "batches.meta").write_bytes(python2({b"label_names": [b"a", b"b"]}))
    (tmp_path / "data_batch_1").write_bytes(python2(batch))
    source = SOURCES["cifar10"](root=str(tmp_path), check_md5=False)
    with pytest.raises(ValueError, match="data_batch_1 must hold rows of 3072 bytes"):
        list(source.records())


def test_svhn(tmp_path):
    from scipy.io import savemat

    facts = {}
    for split, count, given in (("train", 3, [1, 10, 9]), ("test", 2, [10, 4])):
        images = pixels(count, 32, 32, 3)
        facts[split] = images, [label % 10 for label in given]
        labels = np.array(given, np.uint8)[:, None]
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels})
    source = SOURCES["svhn"](root=str(tmp_path))
    assert source.classes == tuple("0123456789")
    for split, (images, labels) in facts.items():
        check_arrays(source, split, images, labels)
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2)), "y": labels})
    with pytest.raises(ValueError, match="must hold X of 32 x 32 x 3 x N bytes"):
        list(SOURCES["svhn"](root=str(tmp_path)).records())
    (tmp_path / "test_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match="is no MATLAB file"):
        list(SOURCES["svhn"](root=str(tmp_path)).records())
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(ValueError, match=r"test_32x32\.mat must be there, and is missing"):
        SOURCES["svhn"](root=str(tmp_path))


# photographs in folders


def test_caltech101(tmp_path):
    counts = {"BACKGROUND_Google": 3, "accordion": 45, "yin_yang": 10}
    images = save_all(
        tmp_path,
        [
            f"101_ObjectCategories/{kind}/image_{number:04d}.jpg"
            for kind, count in counts.items()
            for number in range(1, count + 1)
        ],
    )
    source = SOURCES["caltech101"](root=str(tmp_path))
    records, refused = listed(source)
    assert not refused and source.classes == ("accordion", "yin_yang")
    tested = [name.split("/", 1)[1] for name, (split, _) in records.items() if split == "test"]
    # int(0.9 * 45) = 40 train, the next int(4.5) = 4 are tested on, the one left over trains.
    assert tested == [f"accordion/image_{n:04d}.jpg" for n in range(41, 45)] + [
        "yin_yang/image_0010.jpg"
    ]
    assert len(records) == 55
    assert all(np.array_equal(decoded(source, name), images[name]) for name in records)
    with_background = SOURCES["caltech101"](root=str(tmp_path), background=True)
    assert with_background.classes == ("BACKGROUND_Google", "accordion", "yin_yang")


def test_caltech256(tmp_path):
    names = [
        f"caltech256/256_ObjectCategories/{kind}/{kind[:3]}_{number:04d}.jpg"
        for kind in ("001.ak47", "256.toad", "257.clutter")
        for number in range(1, 41)
    ]
    save_all(tmp_path, names)
    source = SOURCES["caltech256"](root=str(tmp_path))
    assert source.classes == ("001.ak47", "256.toad", "257.clutter")
    records, _ = listed(source)
    tested = [name for name, (split, _) in records.items() if split == "test"]
    assert tested == [name for name in names if name.endswith(("_0039.jpg", "_0040.jpg"))]
    assert len(SOURCES["caltech256"](root=str(tmp_path), clutter=False).classes) == 2
    with pytest.raises(ValueError, match="must hold 101_ObjectCategories"):
        SOURCES["caltech101"](root=str(tmp_path))


IMAGENET = [f"train/{kind}/{kind}_{i}.JPEG" for kind in ("n01440764", "n01443537") for i in (1, 2)]


@pytest.mark.parametrize("form", ["folders", "names", "numbers", "kaggle"])
def test_imagenet(tmp_path, form):
    val = {"ILSVRC2012_val_00000001": "n01443537", "ILSVRC2012_val_00000002": "n01440764"}
    path = "val/{1}/{0}.JPEG" if form == "folders" else "val/{0}.JPEG"
    tested = {path.format(name, kind): kind for name, kind in val.items()}
    images = save_all(tmp_path, [*IMAGENET, *tested])
    labels = {
        "folders": "",
        "names": "".join(f"{name}.JPEG {kind}\n" for name, kind in val.items()),
        "numbers": "".join(f"{n}.JPEG {int(kind == 'n01443537')}\n" for n, kind in val.items()),
        "kaggle": "ImageId,PredictionString\n"
        + "".join(f"{name},{kind} 85 1 499 272 \n" for name, kind in val.items()),
    }[form]
    if labels:
        (tmp_path / "list.txt").write_text(labels)
    source = SOURCES["imagenet"](root=str(tmp_path), val_labels="list.txt")
    records, refused = listed(source)
    assert not refused and source.classes == ("n01440764", "n01443537")
    assert records == {
        **{name: ("train", name.split("/")[1]) for name in IMAGENET},
        **{name: ("test", kind) for name, kind in tested.items()},
    }
    assert all(np.array_equal(decoded(source, name), image) for name, image in images.items())


def test_imagenet_without_labels_is_named(tmp_path):
    save_all(tmp_path, [*IMAGENET, "val/a.JPEG", "val/b.JPEG"])
    with pytest.raises(ValueError, match=r"or val_labels\.txt must list its labels"):
        SOURCES["imagenet"](root=str(tmp_path))
    (tmp_path / "val_labels.txt").write_text("a.JPEG n99999999\nb.JPEG\n")
    _, refused = listed(SOURCES["imagenet"](root=str(tmp_path)))
    assert refused == {
        "val/a.JPEG": "has no label",
        "val_labels.txt, line 2": "must be NAME CLASS",
        "val/b.JPEG": "has no label",
    }


@pytest.mark.parametrize("place", ["", "tiny-imagenet-200"])
def test_tiny_imagenet(tmp_path, place):
    kinds = ("n01443537", "n01629819")
    trained = [f"train/{kind}/images/{kind}_{i}.JPEG" for kind in kinds for i in range(2)]
    tested = [f"val/images/val_{i}.JPEG" for i in range(2)]
    images = save_all(tmp_path / place, [*trained, *tested, "test/images/test_0.JPEG"])
    for kind in kinds:
        (tmp_path / place / "train" / kind / f"{kind}_boxes.txt").write_text("x\t0\t0\t63\t63\n")
    (tmp_path / place / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn01629819\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t52\t55\t57\t59\n"
    )
    source = SOURCES["tiny_imagenet"](root=str(tmp_path))
    records, refused = listed(source)
    assert not refused and source.classes == kinds
    assert records == {
        **{name: ("train", name.split("/")[1]) for name in trained},
        tested[0]: ("test", "n01629819"),
        tested[1]: ("test", "n01443537"),
    }
    assert all(np.array_equal(decoded(source, name), images[name]) for name in records)


def test_a_list_that_is_missing_is_named(tmp_path):
    for name, message in (
        ("label_file", "label.txt must list"),
        ("challenge_json", "train.json must list"),
        ("mnist", "train-images-idx3-ubyte must lie in one of"),
        ("cifar10", "batches.meta must lie in one of"),
        ("imagenet", "train must be a folder"),
        ("tiny_imagenet", "val_annotations.txt must list"),
    ):
        with pytest.raises(ValueError, match=message):
            SOURCES[name](root=str(tmp_path))
