import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.data.batches import Split, in_order, read_split, shuffled
from components.data.config import DataConfig
from components.data.prepare import prepare
from components.data.reading import read_shards


def numbered(size):
    """A split whose images and labels carry their own position."""
    images = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 3)
    return Split(images, torch.arange(size), tuple(str(number) for number in range(size)))


def labels_of(batches):
    return torch.cat([labels for _, labels in batches]).tolist()


def test_split_holds_the_rows_in_order(digits_shards):
    rows, split = (
        list(read_shards(digits_shards, "validation")),
        read_split(digits_shards, "validation"),
    )
    assert split.images.dtype == torch.uint8 and split.images.shape == (130, 1, 28, 28)
    assert split.images.is_contiguous()
    assert split.labels.dtype == torch.int64
    assert split.labels.tolist() == [row.label for row in rows]
    assert split.ids == tuple(row.id for row in rows)
    assert len(split) == 130
    for image, row in zip(split.images, rows, strict=True):
        assert row.id == hashlib.sha256(b"28x28x1:" + image.numpy().tobytes()).hexdigest()


def test_colour_comes_channels_first(tiny_root, tmp_path):
    prepare(
        DataConfig(source={"name": "folder", "root": str(tiny_root)}, validation_share=0.3),
        tmp_path / "shards",
    )
    split = read_split(tmp_path / "shards", "test")
    first = np.asarray(Image.open(tiny_root / "test" / "bee" / "000.png"))
    assert split.images.shape == (8, 3, 6, 5)
    assert np.array_equal(split.images[0].permute(1, 2, 0), first)


def test_unknown_splits_are_named(digits_shards):
    with pytest.raises(ValueError, match="unknown split 'dev', expected one of"):
        read_split(digits_shards, "dev")


@settings(deadline=None)  # the machine may be busy
@given(
    size=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_gives_every_image_once(size, batch_size, seed, epoch):
    split = numbered(size)
    batches = list(shuffled(split, batch_size, seed=seed, epoch=epoch))
    assert sorted(labels_of(batches)) == list(range(size))
    whole, left = divmod(size, batch_size)
    assert [len(labels) for _, labels in batches] == [batch_size] * whole + [left] * (left > 0)
    for images, labels in batches:
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)


def test_order_depends_on_seed_and_epoch_alone():
    split = numbered(50)
    orders = [
        tuple(labels_of(shuffled(split, batch_size, seed=seed, epoch=epoch)))
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
        for batch_size in (7, 50)
    ]
    assert orders[::2] == orders[1::2]
    assert len(set(orders)) == 4
    assert tuple(range(50)) not in orders


def test_shuffling_leaves_global_generators_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    list(shuffled(numbered(5), 2, seed=0, epoch=0))
    assert torch.equal(torch.random.get_rng_state(), before)


@settings(deadline=None)  # the machine may be busy
@given(size=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_in_order_is_in_order(size, batch_size):
    batches = list(in_order(numbered(size), batch_size))
    assert labels_of(batches) == list(range(size))
    assert all(len(labels) <= batch_size for _, labels in batches)


def test_pixels_become_floats_in_the_unit_interval():
    split = Split(
        torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), torch.zeros(1).long(), ("",)
    )
    for batches in (in_order(split, 1), shuffled(split, 1, seed=0, epoch=0)):
        ((images, _),) = batches
        assert images.dtype == torch.float32
        assert torch.equal(images.flatten(), torch.arange(256) / 255)
    assert split.images.dtype == torch.uint8
