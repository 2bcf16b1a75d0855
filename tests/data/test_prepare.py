import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from components.data.config import DataConfig
from components.data.index import SPLITS, read_index
from components.data.prepare import prepare
from components.data.reading import read_shards
from components.data.sources.digits import digits as digits_source


def tiny_settings(root, **changes):
    settings = DataConfig(source={"name": "folder", "root": str(root)}, validation_share=0.25)
    return replace(settings, **changes)


def pixels(row):
    """Give the pixels of a row of small images, which lie there as they are."""
    return np.frombuffer(row.image, np.uint8).reshape(row.height, row.width, -1)


def ids(folder, split):
    return [row.id for row in read_shards(folder, split)]


def test_digits_in_numbers(digits_shards):
    index = read_index(digits_shards)
    sizes = {split: content.num_images for split, content in index.splits.items()}
    # Ten per cent of each class's training images, rounded; every class has 126 to 132 of them.
    assert sizes == {"train": 1167, "validation": 130, "test": 500}
    assert index.splits["validation"].counts == (13,) * 10
    assert index.classes == tuple("0123456789")
    assert index.image_shape == (1, 28, 28)


def test_digits_are_resized_by_pillow(digits_shards):
    source = digits_source()
    tested = [record for record in source.records() if record.split == "test"]
    for record, row in zip(tested, read_shards(digits_shards, "test"), strict=True):
        original = Image.open(io.BytesIO(source.read(record.name)))
        expected = original.resize((28, 28), Image.Resampling.BILINEAR)
        assert np.array_equal(pixels(row)[..., 0], np.asarray(expected))
        assert row.label == int(record.class_name)


def test_splits_share_no_digit(digits_shards):
    found = {split: set(ids(digits_shards, split)) for split in SPLITS}
    assert sum(len(part) for part in found.values()) == len(set.union(*found.values())) == 1797


def test_every_image_arrives_once_in_the_right_split(tiny_root, tmp_path):
    figures = prepare(tiny_settings(tiny_root), tmp_path / "shards")
    # 0.25 of 9, 20 and 3 training images are 2.25, 5 and 0.75.
    assert figures == {
        "classes": 3,
        "train_images": 24,
        "validation_images": 8,
        "test_images": 8,
        "quarantined_images": 0,
    }
    index = read_index(tmp_path / "shards")
    assert index.splits["validation"].counts == (2, 5, 1)
    assert index.splits["train"].counts == (7, 15, 2)
    assert index.splits["test"].counts == (2, 5, 1)
    for published, ours in (("train", ("train", "validation")), ("test", ("test",))):
        sources = {
            np.asarray(Image.open(path)).tobytes()
            for path in (tiny_root / published).rglob("*.png")
        }
        arrived = [row.image for split in ours for row in read_shards(tmp_path / "shards", split)]
        assert set(arrived) == sources and len(arrived) == len(sources)


def test_the_seed_chooses_the_validation_images_and_nothing_else(tiny_root, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        prepare(tiny_settings(tiny_root, seed=seed), tmp_path / name)
    one, again, two = (read_index(tmp_path / name) for name in ("one", "again", "two"))
    assert one == again
    assert one.fingerprint != two.fingerprint
    assert one.splits["validation"].counts == two.splits["validation"].counts
    assert ids(tmp_path / "one", "validation") != ids(tmp_path / "two", "validation")
    assert ids(tmp_path / "one", "test") == ids(tmp_path / "two", "test")


def test_the_fingerprint_does_not_know_where_the_source_lies(tiny_root, tmp_path):
    prepare(tiny_settings(tiny_root), tmp_path / "one")
    moved = tiny_root.rename(tmp_path / "moved")
    prepare(tiny_settings(moved, shard_images=3), tmp_path / "two")
    one, two = read_index(tmp_path / "one"), read_index(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    assert len(one.shards) < len(two.shards)


def test_a_new_class_leaves_the_cuts_of_the_others_alone(tiny_root, tmp_path):
    prepare(tiny_settings(tiny_root), tmp_path / "before")
    for split in ("train", "test"):
        (tiny_root / split / "aye").mkdir()
        Image.new("RGB", (5, 6), (9 * (split == "train"), 0, 0)).save(
            tiny_root / split / "aye" / "0.png"
        )
    prepare(tiny_settings(tiny_root), tmp_path / "after")
    assert set(ids(tmp_path / "before", "validation")) == set(ids(tmp_path / "after", "validation"))


def test_every_training_image_validates_under_some_seed(tiny_root, tmp_path):
    prepare(tiny_settings(tiny_root), tmp_path / "reference")
    everything = set(ids(tmp_path / "reference", "train"))
    everything |= set(ids(tmp_path / "reference", "validation"))
    chosen = set()
    for seed in range(30):
        prepare(tiny_settings(tiny_root, seed=seed), tmp_path / str(seed))
        chosen |= set(ids(tmp_path / str(seed), "validation"))
    assert chosen == everything


@pytest.mark.parametrize(("grey", "channels"), [(False, 3), (True, 1)])
def test_mixed_files_become_one_kind(tiny_root, tmp_path, grey, channels):
    folder = tiny_root / "train" / "ant"
    Image.new("L", (9, 9), 100).save(folder / "grey.jpg")
    Image.new("1", (3, 7), 1).save(folder / "bits.png")
    Image.new("P", (5, 6), 0).save(folder / "palette.PNG")
    settings = tiny_settings(tiny_root, image_size=4)
    prepare(replace(settings, source={**settings.source, "grey": grey}), tmp_path / "shards")
    assert read_index(tmp_path / "shards").image_shape == (channels, 4, 4)


def test_images_of_different_sizes_need_an_image_size(tiny_root, tmp_path):
    Image.new("RGB", (9, 9)).save(tiny_root / "test" / "cat" / "large.png")
    with pytest.raises(ValueError, match=r"large\.png has 3 channels of 9x9 .* set image_size"):
        prepare(tiny_settings(tiny_root), tmp_path / "shards")


def test_splits_that_would_be_empty_are_refused(tiny_root, tmp_path):
    with pytest.raises(ValueError, match=r"validation_share 0\.01 leaves no image"):
        prepare(tiny_settings(tiny_root, validation_share=0.01), tmp_path / "shards")
    for path in (tiny_root / "test").rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ValueError, match="test split must hold at least one image"):
        prepare(tiny_settings(tiny_root), tmp_path / "shards")
    for path in (tiny_root / "train" / "cat").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ValueError, match="class 'cat' has no training images"):
        prepare(tiny_settings(tiny_root), tmp_path / "shards")


def test_every_class_keeps_an_image_to_train_on(tiny_root, tmp_path):
    prepare(tiny_settings(tiny_root, validation_share=0.99), tmp_path / "shards")
    assert read_index(tmp_path / "shards").splits["train"].counts == (1, 1, 1)


def test_progress_counts_every_image(tiny_root, tmp_path, capsys):
    prepare(tiny_settings(tiny_root), tmp_path / "shards")
    assert capsys.readouterr().out.rstrip().endswith("40/40 images")
