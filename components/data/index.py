"""Index: what a folder of shards holds, and a fingerprint of its content."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from components.config import check_value
from components.storage import Folder

INDEX = "index.json"
SPLITS = ("train", "validation", "test")
SCHEMA = 2

ROWS_PER_GROUP = 256
"""What a writer holds per split, and a reader at once."""


class DamagedShard(ValueError):
    """A shard or an index that is not what was written."""


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
        encoding: of the images: ``raw`` (the pixels themselves), ``png``, or ``jpeg`` (the source's
            own JPEG where it could stay as it was, PNG elsewhere).
        training_side: shorter side of the training images where they keep their own shape; 0 where
            they have `image_shape` too.
        location: folder or prefix in a bucket that holds the shards; empty where they lie beside
            the index.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    splits: dict[str, Content]
    shards: tuple[Shard, ...]
    encoding: str = "png"
    training_side: int = 0
    location: str = ""

    @property
    def fingerprint(self) -> str:
        """Content address: the same for the same pixels, labels, classes, splits and order.

        It knows neither folder nor shard size nor encoding.
        """
        facts = asdict(self)
        for name in ("shards", "encoding", "training_side", "location"):
            del facts[name]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_index(folder: Path) -> Index:
    """Read what a folder of shards holds.

    Raises:
        DamagedShard: the index contradicts its own fingerprint or counts.
        ValueError: there is no index, or it is not one of ours.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder} holds no prepared data: {INDEX} is missing")
    return parse_index(path.read_bytes(), str(path))


def parse_index(content: bytes, where: str) -> Index:
    """Read an index.

    Args:
        content: of its file.
        where: what errors call the file.

    Raises:
        DamagedShard: the index contradicts its own fingerprint or counts.
        ValueError: it is not one of ours.
    """
    try:
        facts = json.loads(content)
        schema, fingerprint = facts["schema"], facts["fingerprint"]
        index = _parse(facts) if schema == SCHEMA else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is no index of shards: {error!r}") from error
    if index is None:
        raise ValueError(f"{where} has schema {schema!r}, this version reads {SCHEMA}")
    if index.fingerprint != fingerprint or not _adds_up(index):
        raise DamagedShard(f"{where} is not what was written; prepare the data again")
    return index


def write_index(folder: Folder, index: Index) -> None:
    """Write the index, whole or not at all; it makes the folder's shards complete."""
    facts = {"schema": SCHEMA, "fingerprint": index.fingerprint, **asdict(index)}
    folder.write(INDEX, (json.dumps(facts, indent=2) + "\n").encode())


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
        shards=tuple(_parse_shard(shard) for shard in facts["shards"]),
        encoding=check_value("encoding", facts["encoding"], str),
        training_side=check_value("training_side", facts["training_side"], int),
        location=check_value("location", facts["location"], str),
    )


def _parse_shard(facts: dict[str, Any]) -> Shard:
    """Read what the fingerprint does not cover, so that types are all there is to go by."""
    types = get_type_hints(Shard)
    return Shard(**{name: check_value(name, facts[name], kind) for name, kind in types.items()})


def _adds_up(index: Index) -> bool:
    """Say whether the shards, which the fingerprint does not cover, hold every image."""
    for split, content in index.splits.items():
        rows = [shard.rows for shard in index.shards if shard.split == split]
        if not all(type(count) is int for count in rows) or sum(rows) != content.num_images:
            return False
    # A bare file name: an index must not lead out of its folder.
    return all(Path(str(shard.file)).name == shard.file for shard in index.shards)
