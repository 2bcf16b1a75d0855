"""write_shards, read_shards: immutable Parquet files of images, and an index with their hashes."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from components.config import unknown
from components.data.statistics import Statistics

INDEX = "index.json"
SPLITS = ("train", "validation", "test")
SCHEMA = 1

_ROWS_PER_GROUP = 256  # a writer holds one row group per split
_COLUMNS = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
    ]
)


class DamagedShard(ValueError):
    """A shard or an index that is not what was written."""


class Example(NamedTuple):
    """One image on its way into a shard.

    Attributes:
        split: one of SPLITS.
        label: position of its class.
        pixels: uint8, height x width x channels.
        origin: what an error calls it.
    """

    split: str
    label: int
    pixels: NDArray[np.uint8]
    origin: str


class Row(NamedTuple):
    """One image in a shard.

    Attributes:
        image: encoded as PNG.
        label: position of its class.
        width: in pixels.
        height: in pixels.
        id: SHA-256 of shape and decoded pixels, so it outlives a change of encoder.
    """

    image: bytes
    label: int
    width: int
    height: int
    id: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a split."""

    file: str
    split: str
    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a split holds, however it is cut into shards.

    Attributes:
        counts: images per class.
        sha256: of the ids and labels, in row order.
    """

    counts: tuple[int, ...]
    sha256: str

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return sum(self.counts)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a folder of shards holds.

    Attributes:
        classes: their names, in the order of the labels.
        image_shape: channels, height, width.
        mean: of the training images in [0, 1], per channel.
        deviation: standard deviation of the training images, per channel.
        splits: content by name of the split.
        shards: in reading order.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    splits: dict[str, Content]
    shards: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """Content address: the same for the same pixels, labels, classes, splits and order.

        It knows neither folder nor shard size nor the encoder's version.
        """
        facts = asdict(self)
        del facts["shards"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def write_shards(
    folder: Path, examples: Iterable[Example], *, classes: tuple[str, ...], shard_images: int
) -> Index:
    """Write examples into shards as they come, and the index last.

    A folder without an index is unfinished. The memory needed does not grow with the examples.

    Args:
        folder: made where it is missing.
        examples: of any split in any order; the order within a split is kept.
        classes: their names, in the order of the labels.
        shard_images: how many images a shard holds at most.

    Raises:
        ValueError: the folder already holds shards, there is no training image, or the images
            differ in shape.
    """
    if (folder / INDEX).exists():
        raise ValueError(f"{folder} already holds shards, which never change; choose another one")
    folder.mkdir(parents=True, exist_ok=True)
    statistics = Statistics()
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(_SplitWriter(folder, split, len(classes), shard_images))
            for split in SPLITS
        }
        for example in examples:
            statistics.check_shape(example.pixels, example.origin)
            if example.split == "train":
                statistics.add(example.pixels)
            writers[example.split].add(example)
    index = Index(
        classes=classes,
        image_shape=statistics.image_shape,
        mean=statistics.mean,
        deviation=statistics.deviation,
        splits={split: writer.content() for split, writer in writers.items()},
        shards=tuple(shard for writer in writers.values() for shard in writer.shards),
    )
    _write_index(folder, index)
    return index


def read_shards(folder: Path, split: str) -> Iterator[Row]:
    """Give the rows of a split in the order in which they were written.

    Raises:
        DamagedShard: size or hash of a shard disagree with the index.
        ValueError: the folder has no usable index, or the split is unknown.
    """
    index = read_index(folder)
    if split not in index.splits:
        raise ValueError(unknown("split", split, index.splits))
    for shard in index.shards:
        if shard.split == split:
            file = pq.ParquetFile(pa.BufferReader(_verified(folder, shard)))
            for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP):
                yield from (Row(**row) for row in batch.to_pylist())


def read_index(folder: Path) -> Index:
    """Read what a folder of shards holds.

    Raises:
        DamagedShard: the index contradicts its own fingerprint or counts.
        ValueError: there is no index, or it is not one of ours.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder} holds no prepared data: {INDEX} is missing")
    try:
        facts = json.loads(path.read_bytes())
        schema, fingerprint = facts["schema"], facts["fingerprint"]
        index = _parse(facts) if schema == SCHEMA else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of shards: {error!r}") from error
    if index is None:
        raise ValueError(f"{path} has schema {schema!r}, this version reads {SCHEMA}")
    if index.fingerprint != fingerprint or not _adds_up(index):
        raise DamagedShard(f"{path} is not what was written; prepare the data again")
    return index


def _write_index(folder: Path, index: Index) -> None:
    facts = {"schema": SCHEMA, "fingerprint": index.fingerprint, **asdict(index)}
    unfinished = folder / f"{INDEX}.part"
    unfinished.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / INDEX)


def _parse(facts: dict[str, Any]) -> Index:
    return Index(
        classes=tuple(facts["classes"]),
        image_shape=tuple(facts["image_shape"]),
        mean=tuple(facts["mean"]),
        deviation=tuple(facts["deviation"]),
        splits={
            split: Content(counts=tuple(content["counts"]), sha256=content["sha256"])
            for split, content in facts["splits"].items()
        },
        shards=tuple(Shard(**shard) for shard in facts["shards"]),
    )


def _adds_up(index: Index) -> bool:
    """Say whether the shards, which the fingerprint does not cover, hold every image."""
    for split, content in index.splits.items():
        rows = [shard.rows for shard in index.shards if shard.split == split]
        if not all(type(count) is int for count in rows) or sum(rows) != content.num_images:
            return False
    # A bare file name: an index must not lead out of its folder.
    return all(Path(str(shard.file)).name == shard.file for shard in index.shards)


def _verified(folder: Path, shard: Shard) -> bytes:
    path = folder / shard.file
    if not path.is_file():
        raise DamagedShard(f"{path} is missing; prepare the data again")
    data = path.read_bytes()
    if len(data) != shard.size_bytes:
        raise DamagedShard(
            f"{path} has {len(data)} bytes, its index says {shard.size_bytes}; "
            "prepare the data again"
        )
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DamagedShard(f"{path} does not have the hash of its index; prepare the data again")
    return data


class _SplitWriter:
    """Writes one split, shard after shard, a row group at a time."""

    def __init__(self, folder: Path, split: str, num_classes: int, shard_images: int) -> None:
        self.folder, self.split, self.shard_images = folder, split, shard_images
        self.shards: list[Shard] = []
        self._counts = [0] * num_classes
        self._digest = hashlib.sha256()
        self._group: list[Row] = []
        self._rows = 0
        self._file: pq.ParquetWriter | None = None

    def add(self, example: Example) -> None:
        """Encode one example and write it with its row group."""
        row = _encode(example)
        self._counts[row.label] += 1
        self._digest.update(f"{row.id} {row.label}\n".encode())
        self._group.append(row)
        if len(self._group) == min(_ROWS_PER_GROUP, self.shard_images - self._rows):
            self._write_group()
        if self._rows == self.shard_images:
            self._finish_shard()

    def content(self) -> Content:
        """Say what was written."""
        return Content(counts=tuple(self._counts), sha256=self._digest.hexdigest())

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.split}-{len(self.shards):05d}.parquet"

    def _write_group(self) -> None:
        if self._file is None:
            # Encoded images do not compress further, and no two rows share a value worth a table.
            self._file = pq.ParquetWriter(
                self._path, _COLUMNS, compression="none", use_dictionary=False
            )
        rows = [row._asdict() for row in self._group]
        self._file.write_table(pa.Table.from_pylist(rows, schema=_COLUMNS))
        self._rows += len(rows)
        self._group = []

    def _finish_shard(self) -> None:
        assert self._file is not None
        self._file.close()
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.shards.append(
            Shard(
                file=self._path.name,
                split=self.split,
                rows=self._rows,
                size_bytes=self._path.stat().st_size,
                sha256=digest,
            )
        )
        self._file, self._rows = None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._group:
            self._write_group()
        if kind is None and self._rows:
            self._finish_shard()
        elif self._file is not None:
            self._file.close()


def image_id(pixels: NDArray[np.uint8]) -> str:
    """Name an image of height x width x channels by the SHA-256 of its shape and pixels."""
    height, width, channels = pixels.shape
    shape = f"{height}x{width}x{channels}:".encode()
    return hashlib.sha256(shape + pixels.tobytes()).hexdigest()


def _encode(example: Example) -> Row:
    height, width, channels = example.pixels.shape
    encoded = io.BytesIO()
    image = Image.fromarray(example.pixels.squeeze(2) if channels == 1 else example.pixels)
    image.save(encoded, "PNG")
    return Row(
        image=encoded.getvalue(),
        label=example.label,
        width=width,
        height=height,
        id=image_id(example.pixels),
    )
