"""Shards in their exact format on disk, written by hand, row by row."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.data.index import ROWS_PER_GROUP, Content, Index, Shard, write_index
from components.storage import open_folder

COLUMNS = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
    ]
)


def encode(pixels, encoding, **options):
    if encoding == "raw":
        return pixels.tobytes()
    content = io.BytesIO()
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.save(content, encoding.upper(), **options)
    return content.getvalue()


def numbered(count, shape=(2, 3, 3)):
    """Images that carry their position in the split in their first three pixels."""
    images = np.zeros((count, *shape), np.uint8)
    flat = images.reshape(count, -1)
    for digit in range(3):
        flat[:, digit] = np.arange(count) // 256**digit % 256
    return list(images)


def write(folder, images, *, encoding="raw", shard_rows=1000, split="train", **facts):
    """Write a split of images, whose labels are 0, 1, 2, 0, 1, 2, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for start in range(0, len(images), shard_rows):
        rows = []
        for number, pixels in enumerate(images[start : start + shard_rows], start):
            height, width, _ = pixels.shape
            rows.append(
                {
                    "image": encode(pixels, encoding),
                    "label": number % 3,
                    "width": width,
                    "height": height,
                    "id": str(number),
                }
            )
        path = folder / f"{split}-{len(shards):05d}.parquet"
        table = pa.Table.from_pylist(rows, schema=COLUMNS)
        pq.write_table(
            table, path, row_group_size=ROWS_PER_GROUP, compression="none", use_dictionary=False
        )
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        shards.append(
            Shard(
                file=path.name,
                split=split,
                rows=len(rows),
                size_bytes=len(content),
                sha256=digest,
            )
        )
    height, width, channels = facts.pop("shape", images[0].shape)
    counts = tuple(len(range(label, len(images), 3)) for label in range(3))
    index = Index(
        classes=("ant", "bee", "cat"),
        image_shape=(channels, height, width),
        mean=(0.5,) * channels,
        deviation=(0.25,) * channels,
        splits={split: Content(counts=counts, sha256="")},
        shards=tuple(shards),
        encoding=encoding,
        **facts,
    )
    write_index(open_folder(folder), index)
    return index
