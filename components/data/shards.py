"""write_shards: images into immutable Parquet files, and an index with their hashes."""

import hashlib
import io
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from components.data.index import (
    INDEX,
    ROWS_PER_GROUP,
    SPLITS,
    Content,
    DamagedShard,
    Index,
    Shard,
    write_index,
)
from components.data.pixels import pixels_of
from components.data.reading import Row
from components.data.statistics import Statistics, Sums
from components.storage import Folder, open_folder

_COLUMNS = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
    ]
)


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


class Encoded(NamedTuple):
    """An example as its shard holds it, and what the index needs to know of it.

    Attributes:
        split: one of SPLITS.
        origin: what an error calls it.
        row: of the shard.
        sums: of its pixels.
    """

    split: str
    origin: str
    row: Row
    sums: Sums


class Summary:
    """What an index says, gathered from rows as they pass by; it does not look at their bytes.

    Args:
        classes: their names, in the order of the labels.
        encoding: of the images.
        training_side: shorter side of training images that keep their shape, or 0.
    """

    def __init__(self, classes: tuple[str, ...], encoding: str, training_side: int = 0) -> None:
        self.classes, self.encoding, self.training_side = classes, encoding, training_side
        self._statistics = Statistics()
        self._counts = {split: [0] * len(classes) for split in SPLITS}
        self._digests = {split: hashlib.sha256() for split in SPLITS}

    def add(self, encoded: Encoded) -> None:
        """Count a row in.

        Raises:
            ValueError: its shape is not that of the rows before it.
        """
        split, row, sums = encoded.split, encoded.row, encoded.sums
        if split != "train" or not self.training_side:
            shape = len(sums.values), row.height, row.width
            self._statistics.check_shape(shape, encoded.origin)
        if split == "train":
            self._statistics.add(row.height * row.width, sums)
        self._counts[split][row.label] += 1
        self._digests[split].update(f"{row.id} {row.label}\n".encode())

    def index(self, shards: Iterable[Shard] = ()) -> Index:
        """Give the index of what was counted.

        Raises:
            ValueError: there was no training image.
        """
        return Index(
            classes=self.classes,
            mean=self._statistics.mean,
            deviation=self._statistics.deviation,
            image_shape=self._statistics.image_shape,
            splits={
                split: Content(
                    counts=tuple(self._counts[split]), sha256=self._digests[split].hexdigest()
                )
                for split in SPLITS
            },
            shards=tuple(shards),
            encoding=self.encoding,
            training_side=self.training_side,
        )


def write_shards(
    folder: Path,
    examples: Iterable[Example],
    *,
    classes: tuple[str, ...],
    shard_images: int,
    encoding: str = "png",
) -> Index:
    """Write examples into shards as they come, and the index last.

    A folder without an index is unfinished. The memory needed does not grow with the examples.

    Args:
        folder: made where it is missing.
        examples: of any split in any order; the order within a split is kept.
        classes: their names, in the order of the labels.
        shard_images: how many images a shard holds at most.
        encoding: ``raw`` or ``png``.

    Raises:
        ValueError: the folder already holds shards, there is no training image, or the images
            differ in shape.
    """
    if (folder / INDEX).exists():
        raise ValueError(f"{folder} already holds shards, which never change; choose another one")
    rows = (encode(example, encoding) for example in examples)
    return write_encoded(open_folder(folder), rows, Summary(classes, encoding), shard_images)


def write_encoded(
    folder: Folder, rows: Iterable[Encoded], summary: Summary, shard_images: int
) -> Index:
    """Write rows into shards, each by way of a temporary file, and the index last.

    What an interrupted run has already sent is not sent again.

    Args:
        folder: that holds no index yet, or one whose shards got lost.
        rows: of any split in any order; the order within a split is kept.
        summary: empty; sees every row.
        shard_images: how many images a shard holds at most.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        writers = {
            split: stack.enter_context(_SplitWriter(folder, scratch, split, shard_images))
            for split in SPLITS
        }
        for encoded in rows:
            summary.add(encoded)
            writers[encoded.split].add(encoded.row)
        for writer in writers.values():
            writer.finish()
    index = summary.index(shard for writer in writers.values() for shard in writer.shards)
    write_index(folder, index)
    return index


class _SplitWriter:
    """Writes one split, shard after shard, a row group at a time."""

    def __init__(self, folder: Folder, scratch: Path, split: str, shard_images: int) -> None:
        self.folder, self.split, self.shard_images = folder, split, shard_images
        self.shards: list[Shard] = []
        self._path = scratch / f"{split}.parquet"
        self._group: list[Row] = []
        self._rows = 0
        self._file: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        """Write a row with its row group."""
        self._group.append(row)
        if len(self._group) == min(ROWS_PER_GROUP, self.shard_images - self._rows):
            self._write_group()
        if self._rows == self.shard_images:
            self._finish_shard()

    def finish(self) -> None:
        """Write what is left."""
        if self._group:
            self._write_group()
        if self._rows:
            self._finish_shard()

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
        shard = Shard(
            file=f"{self.split}-{len(self.shards):05d}.parquet",
            split=self.split,
            rows=self._rows,
            size_bytes=self._path.stat().st_size,
            sha256=digest,
        )
        self.folder.upload(self._path, shard.file)
        self.shards.append(shard)
        self._file, self._rows = None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def image_id(pixels: NDArray[np.uint8]) -> str:
    """Name an image of height x width x channels by the SHA-256 of its shape and pixels."""
    height, width, channels = pixels.shape
    shape = f"{height}x{width}x{channels}:".encode()
    return hashlib.sha256(shape + pixels.tobytes()).hexdigest()


def encode(example: Example, encoding: str, own_jpeg: bytes = b"") -> Encoded:
    """Bring an example into the form of a row.

    Args:
        example: to encode.
        encoding: ``raw``, ``png`` or ``jpeg``.
        own_jpeg: a JPEG of these pixels, which ``jpeg`` keeps if readers find exactly them in it.
    """
    height, width = example.pixels.shape[:2]
    if encoding == "raw":
        image = example.pixels.tobytes()
    elif encoding == "jpeg" and own_jpeg and _reads_as(own_jpeg, example.pixels):
        image = own_jpeg
    else:
        image = _png(example.pixels)
    row = Row(image, example.label, width, height, image_id(example.pixels))
    return Encoded(example.split, example.origin, row, Sums.of(example.pixels))


def _reads_as(jpeg: bytes, pixels: NDArray[np.uint8]) -> bool:
    height, width, channels = pixels.shape
    try:
        found = pixels_of(jpeg, encoding="jpeg", height=height, width=width, channels=channels)
    except DamagedShard:
        return False
    return np.array_equal(found, pixels)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(encoded, "PNG")
    return encoded.getvalue()
