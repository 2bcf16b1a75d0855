"""Every row once per epoch, the same for any number of threads, from disk or from a bucket."""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.augmentations.crop_and_flip import crop_and_flip
from components.data.crops import random_resized_crop
from components.data.index import DamagedShard, read_index, write_index
from components.data.order import Order
from components.data.stream import Stream
from components.storage import StorageError, open_folder
from tests.data import shard_files

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """1,500 numbered images in three shards: row groups of 256 and 244, 256 and 244, ..."""
    folder = tmp_path_factory.mktemp("thousand")
    shard_files.write(folder, shard_files.numbered(1500), shard_rows=500)
    return folder


def numbers(batch):
    """Read the position that each image carries in its pixels."""
    images = (batch.images * 255).round().long().permute(0, 2, 3, 1).flatten(1)
    return (images[:, 0] + 256 * images[:, 1] + 65536 * images[:, 2]).tolist()


def rows_of(batches):
    return [row for batch in batches for row in batch.rows.tolist()]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@given(data=st.data())
@settings(max_examples=200)
def test_an_order_holds_every_row_once(data):
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=20))
    epoch = data.draw(st.none() | st.integers(0, 2**31))
    seed, window_groups = data.draw(st.integers(0, 2**64)), data.draw(st.integers(1, 25))
    order = Order(sizes, window_groups, seed=seed, epoch=epoch)
    cuts = sorted({0, sum(sizes), *data.draw(st.lists(st.integers(0, sum(sizes))))})
    found = []
    for start, stop in pairwise(cuts):
        before = len(found)
        for window, first, last in order.spans(start, stop):
            groups, rows = order.rows(window)
            numbers = order.windows[window][groups[first:last]]
            found += list(zip(numbers.tolist(), rows[first:last].tolist(), strict=True))
        assert len(found) - before == stop - start
    expected = [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    assert sorted(found) == expected
    if epoch is None:
        assert found == expected
    assert all(len(window) <= window_groups for window in order.windows)


@settings(max_examples=25)
@given(
    size=st.integers(1, 700),
    shard_rows=st.integers(100, 600),
    batch_size=st.integers(1, 800),
    world=st.integers(1, 5),
    buffer_images=st.sampled_from([1, 256, 600, 10_000]),
    keep_bytes=st.sampled_from([0, 1 << 30]),
)
def test_all_ranks_together_see_every_row_once(
    size, shard_rows, batch_size, world, buffer_images, keep_bytes
):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard_files.write(folder, shard_files.numbered(size), shard_rows=shard_rows)
        options = {"batch_size": batch_size, "buffer_images": buffer_images, "workers": 2}
        alone = Stream(folder, "train", **options)
        whole = list(alone.epoch(3))
        ranks = [
            list(
                Stream(
                    folder, "train", rank=rank, world=world, keep_bytes=keep_bytes, **options
                ).epoch(3)
            )
            for rank in range(world)
        ]
    assert sorted(rows_of(whole)) == list(range(size))
    assert len(whole) == len(alone) and alone.num_images == size
    assert [len(batch.rows) for batch in whole[:-1]] == [batch_size] * (len(whole) - 1)
    for step, batch in enumerate(whole):
        assert batch.rows.tolist() == [row for rank in ranks for row in rank[step].rows.tolist()]
        shares = [len(rank[step].rows) for rank in ranks]
        assert max(shares) - min(shares) <= 1
        assert numbers(batch) == batch.rows.tolist()
        assert batch.labels.tolist() == [row % 3 for row in batch.rows.tolist()]
        assert torch.equal(batch.targets.argmax(1), batch.labels)
        assert torch.equal(batch.targets.sum(1), torch.ones(len(batch.rows)))


def test_the_threads_make_no_difference(thousand):
    def shift(images, targets, *, generator):
        return images + torch.rand(len(images), 1, 1, 1, generator=generator), targets

    crop = partial(random_resized_crop, smallest_area=0.3)
    results = [
        list(
            Stream(
                thousand,
                "train",
                batch_size=97,
                buffer_images=512,
                workers=workers,
                crop=crop,
                augment=shift,
                keep_bytes=keep_bytes,
            ).epoch(1)
        )
        for workers, keep_bytes in [(1, 0), (2, 0), (7, 0), (3, 1 << 30)]
    ]
    for other in results[1:]:
        assert all(same(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize("start", [0, 1, 7, 15, 16])
def test_an_epoch_is_taken_up_at_any_batch(thousand, start):
    def augment(images, targets, *, generator):
        return images * torch.rand(1, generator=generator), targets

    stream = Stream(thousand, "train", batch_size=100, buffer_images=512, augment=augment)
    assert len(stream) == 15
    tail = list(stream.epoch(2))[start:]
    again = list(stream.epoch(2, start))
    assert len(tail) == len(again) == max(0, 15 - start)
    assert all(same(*pair) for pair in zip(tail, again, strict=True))


def test_starting_late_reads_no_more_than_two_windows(thousand, monkeypatch):
    stream = Stream(thousand, "train", batch_size=100, buffer_images=256, keep_bytes=0)
    read = []
    original = stream._loader._reader.read
    monkeypatch.setattr(stream._loader._reader, "read", lambda *a: read.append(a) or original(*a))
    iterator = stream.epoch(0, 14)
    next(iterator)
    iterator.close()
    assert 1 <= len(read) <= 2


def test_epochs_and_seeds_differ_and_repeat(thousand):
    def order(seed, epoch):
        return tuple(rows_of(Stream(thousand, "train", batch_size=64, seed=seed).epoch(epoch)))

    orders = {(seed, epoch): order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert order(0, 1) == orders[0, 1]


def test_augmentation_differs_between_batches_and_epochs(thousand):
    def draw(images, targets, *, generator):
        return torch.rand(images.shape, generator=generator), targets

    stream = Stream(thousand, "train", batch_size=500, augment=draw)
    drawn = [batch.images for epoch in range(2) for batch in stream.epoch(epoch)]
    assert len({image.numpy().tobytes() for image in drawn}) == 6


def test_in_order_is_as_written_and_unaugmented(thousand):
    def never(images, targets, *, generator):
        raise AssertionError("measured images are not augmented")

    crop = partial(random_resized_crop, smallest_area=0.1)
    stream = Stream(thousand, "train", batch_size=400, crop=crop, augment=never, buffer_images=256)
    batches = list(stream.in_order())
    assert rows_of(batches) == [n for batch in batches for n in numbers(batch)] == [*range(1500)]


def test_neighbours_part():
    """In a window, two rows are a third of its length apart on average, as in any shuffle."""
    order = Order([256] * 40, 8, seed=5, epoch=0)
    at = np.empty(40 * 256)
    position = 0
    for window, groups in enumerate(order.windows):
        local, rows = order.rows(window)
        at[groups[local] * 256 + rows] = np.arange(position, position + len(rows))
        position += len(rows)
    gaps = np.abs(np.diff(at.reshape(40, 256), axis=1))
    # Of |U − V| for uniform U and V: mean 1/3, deviation 1/√18; about 10,000 gaps.
    assert abs(gaps.mean() / 2048 - 1 / 3) < 5 / np.sqrt(18 * 5000)
    assert (gaps == 1).mean() < 5 * 2 / 2048
    # Where a row lands says nothing of where it came from.
    assert abs(np.corrcoef(at, np.arange(len(at)))[0, 1]) < 0.5


def test_pixels_are_exact_and_images_contiguous(thousand):
    (batch,) = Stream(thousand, "train", batch_size=1500).in_order()
    expected = np.stack(shard_files.numbered(1500)).transpose(0, 3, 1, 2)
    assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()
    assert torch.equal(batch.images, torch.from_numpy(expected).float() / 255)


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_encodings_give_the_pixels(tmp_path, encoding, channels):
    random = np.random.default_rng(0)
    images = list(random.integers(0, 256, (20, 7, 5, channels), np.uint8))
    shard_files.write(tmp_path, images, encoding=encoding)
    for keep_bytes in (0, 1 << 20):
        (batch,) = Stream(tmp_path, "train", batch_size=20, keep_bytes=keep_bytes).in_order()
        pixels = (batch.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        assert torch.equal(pixels, torch.from_numpy(np.stack(images)))


def test_larger_training_images_are_cropped(tmp_path):
    random = np.random.default_rng(0)
    shapes = [(8, 11, 3), (9, 8, 3), (8, 8, 3)]
    images = [random.integers(0, 256, shapes[n % 3], np.uint8) for n in range(30)]
    shard_files.write(tmp_path, images, encoding="png", shape=(6, 6, 3), training_side=8)
    (batch,) = Stream(tmp_path, "train", batch_size=30).in_order()
    expected = [
        i[(h - 6) // 2 :, (w - 6) // 2 :][:6, :6]
        for i, (h, w, _) in zip(images, shapes * 10, strict=True)
    ]
    pixels = (batch.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(pixels, torch.from_numpy(np.stack(expected)))
    cropped = Stream(tmp_path, "train", batch_size=30, crop=random_resized_crop).epoch(0)
    assert next(cropped).images.shape == (30, 3, 6, 6)


def test_what_augmentation_raises_arrives(thousand):
    def fail(images, targets, *, generator):
        raise ZeroDivisionError("in a worker")

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="in a worker"):
        list(Stream(thousand, "train", batch_size=10, augment=fail).epoch(0))
    assert threading.active_count() == before


def test_leaving_early_stops_the_threads(thousand):
    before = threading.active_count()
    made = []

    def count(images, targets, *, generator):
        made.append(1)
        return images, targets

    stream = Stream(thousand, "train", batch_size=10, workers=3, augment=count)
    batches = stream.epoch(0)
    for _ in range(5):
        next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before
    assert 5 <= len(made) <= 5 + 3 * 2 + 1  # no further ahead than twice the threads


def test_the_training_threads_setting_stays(thousand):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in Stream(thousand, "train", batch_size=100).epoch(0):
            thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            thread.start()
            thread.join()
        assert torch.get_num_threads() == 2 and set(seen) == {2}
    finally:
        torch.set_num_threads(before)


def test_global_generators_are_left_alone(thousand):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    augment = partial(crop_and_flip, padding=1)
    list(Stream(thousand, "train", batch_size=100, augment=augment).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"buffer_images": 0}, "buffer_images must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"rank": 2, "world": 2}, r"rank must be in \[0, 2\), got 2"),
    ],
)
def test_what_cannot_be(thousand, changes, message):
    with pytest.raises(ValueError, match=message):
        Stream(thousand, "train", **{"batch_size": 1, **changes})


@pytest.fixture
def own(tmp_path):
    shard_files.write(tmp_path / "own", shard_files.numbered(900), shard_rows=300)
    return tmp_path / "own"


def all_rows(folder, **options):
    return rows_of(Stream(folder, "train", batch_size=50, keep_bytes=0, **options).epoch(0))


def test_a_flipped_bit_is_found_before_its_rows_are_given(own):
    path = own / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedShard, match=r"train-00001\.parquet does not have the hash"):
        all_rows(own)


def test_a_torn_shard_is_found(own):
    path = own / "train-00002.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedShard, match=r"train-00002\.parquet has \d+ bytes, its index says"):
        all_rows(own)


def test_a_shard_that_changes_between_epochs_is_found(own):
    stream = Stream(own, "train", batch_size=50, keep_bytes=0)
    assert len(rows_of(stream.epoch(0))) == 900
    path = own / "train-00000.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DamagedShard, match="hash"):
        rows_of(stream.epoch(1))


@pytest.fixture
def in_bucket(own, bucket, tmp_path):
    """The same shards in a bucket, and a folder with just an index that says so."""
    folder = open_folder(f"{bucket}/data")
    for path in own.glob("*.parquet"):
        folder.upload(path, path.name)
    index = read_index(own)
    (tmp_path / "index only").mkdir()
    write_index(open_folder(tmp_path / "index only"), replace(index, location=folder.address))
    return tmp_path / "index only", folder


def test_a_bucket_gives_what_the_disk_gives(own, in_bucket, tmp_path):
    local = list(Stream(own, "train", batch_size=50, buffer_images=512).epoch(0))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        stream = Stream(
            in_bucket[0], "train", batch_size=50, buffer_images=512, cache=cache, keep_bytes=0
        )
        assert all(same(*pair) for pair in zip(local, stream.epoch(0), strict=True))
    names = {hashlib.sha256(path.read_bytes()).hexdigest() for path in own.glob("*.parquet")}
    assert {path.stem for path in (tmp_path / "cache").iterdir()} == names


def test_the_cache_serves_without_the_bucket_and_mends_itself(own, in_bucket, tmp_path):
    cache = tmp_path / "cache"
    assert sorted(all_rows(in_bucket[0], cache=cache)) == list(range(900))
    damaged = next(cache.iterdir())
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    assert sorted(all_rows(in_bucket[0], cache=cache)) == list(range(900))
    for entry in list(in_bucket[1].entries()):
        in_bucket[1]._client.delete_object(**in_bucket[1]._place(entry.name))
    assert sorted(all_rows(in_bucket[0], cache=cache)) == list(range(900))
    with pytest.raises(DamagedShard, match=r"train-0000\d\.parquet is missing"):
        all_rows(in_bucket[0])


def test_another_object_in_the_bucket_is_found(own, in_bucket, tmp_path):
    name, folder = "train-00001.parquet", in_bucket[1]
    content = bytearray((own / name).read_bytes())
    folder.write(name, content[:-1])
    with pytest.raises(DamagedShard, match="bytes, its index says"):
        all_rows(in_bucket[0])
    content[len(content) // 2] ^= 4
    folder.write(name, bytes(content))
    with pytest.raises(DamagedShard, match="hash of its index"):
        all_rows(in_bucket[0], cache=tmp_path / "cache")
    folder.write(name, b"\0" * len(content))
    with pytest.raises(DamagedShard, match="content of its index"):
        all_rows(in_bucket[0])


def test_a_bucket_that_goes_away_is_named(in_bucket, monkeypatch, s3_server):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    batches = Stream(
        in_bucket[0], "train", batch_size=50, buffer_images=256, keep_bytes=0, workers=1
    ).epoch(0)
    next(batches)
    s3_server.kill()
    try:
        with pytest.raises(StorageError, match="did not answer when asked to read s3://"):
            list(batches)
    finally:
        s3_server.start()


MEMORY = """
import resource, sys
from itertools import islice
from pathlib import Path
from components.data.stream import Stream

def peak(folder):
    stream = Stream(Path(folder), "train", batch_size=512, keep_bytes=0, workers=2)
    rows = sum(len(batch.rows) for batch in islice(stream.epoch(0), 150))
    assert rows == min(stream.num_images, 150 * 512)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small = peak(sys.argv[1])
print(peak(sys.argv[2]) - small)
"""


def test_a_million_rows_need_no_more_memory_than_ten_thousand(tmp_path):
    """The pixels of what is read of the larger one are 59 MB, and of all of it 768 MB."""
    images = shard_files.numbered(4000, (16, 16, 3))
    index = shard_files.write(tmp_path / "one", images, shard_rows=4000)
    (shard,) = index.shards
    for name, copies in (("small", 3), ("large", 250)):
        (tmp_path / name).mkdir()
        shards = tuple(replace(shard, file=f"train-{n:05d}.parquet") for n in range(copies))
        for copy in shards:
            os.link(tmp_path / "one" / shard.file, tmp_path / name / copy.file)
        counts = tuple(count * copies for count in index.splits["train"].counts)
        content = replace(index.splits["train"], counts=counts)
        many = replace(index, shards=shards, splits={"train": content})
        write_index(open_folder(tmp_path / name), many)
    assert sum(counts) == 1_000_000
    command = [sys.executable, "-c", MEMORY, tmp_path / "small", tmp_path / "large"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 30_000  # KiB
