"""SplitReader: the row groups of a split, after their shard has shown the hash of its index."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.config import unknown
from components.data.index import ROWS_PER_GROUP, DamagedShard, Shard, read_index
from components.storage import MissingFile, open_folder

_CHUNK_BYTES = 8 << 20


class Row(NamedTuple):
    """One image in a shard.

    Attributes:
        image: encoded as the index says.
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


class Group(NamedTuple):
    """Rows of one shard that lie together.

    Attributes:
        shard: that holds them.
        number: of the row group in the shard.
        rows: how many.
    """

    shard: Shard
    number: int
    rows: int


class SplitReader:
    """Reads row groups in any order, from several threads at once.

    A shard on disk is hashed before its first row is given, and again if the file changed since. So
    is a shard from a bucket that is kept in a cache. Without a cache, just the row groups asked for
    are fetched: of the shard's integrity, only its length is checked then.

    Attributes:
        index: of the data.
        groups: in the order in which they were written.
    """

    def __init__(self, folder: Path, split: str, *, cache: Path | None = None) -> None:
        """Read the index.

        Args:
            folder: holds the index, and the shards unless the index names another location.
            split: ``train``, ``validation`` or ``test``.
            cache: folder that keeps shards from a bucket; may be shared by several processes.

        Raises:
            ValueError: the folder has no usable index, or the split is unknown.
        """
        self.index = read_index(folder)
        if split not in self.index.splits:
            raise ValueError(unknown("split", split, self.index.splits))
        self.groups = tuple(
            Group(shard, number, min(ROWS_PER_GROUP, shard.rows - number * ROWS_PER_GROUP))
            for shard in self.index.shards
            if shard.split == split
            for number in range(-(-shard.rows // ROWS_PER_GROUP))
        )
        self._folder = open_folder(self.index.location or folder)
        self._cache = cache
        self._locks = {group.shard.file: Lock() for group in self.groups}
        self._seen: dict[str, tuple[int, ...]] = {}

    def read(self, group: Group, columns: list[str] | None = None) -> pa.Table:
        """Give a row group's columns, or all of them.

        Raises:
            DamagedShard: size, hash or content of the shard disagree with the index.
            StorageError: the shard cannot be read.
        """
        address = f"{self._folder.address}/{group.shard.file}"
        try:
            with self._open(group.shard) as source, pq.ParquetFile(source) as file:
                if file.metadata.num_rows != group.shard.rows:
                    raise _damaged(address, f"has {file.metadata.num_rows} rows")
                table = file.read_row_group(group.number, columns, use_threads=False)
        except MissingFile as error:
            raise _damaged(address, "is missing") from error
        except pa.ArrowException as error:
            raise _damaged(address, "does not have the content of its index") from error
        if table.num_rows != group.rows:
            raise _damaged(address, f"has a row group of {table.num_rows} rows")
        return table.combine_chunks()

    def _open(self, shard: Shard) -> Any:
        path = self._folder.path(shard.file)
        if path is not None or self._cache is not None:
            with self._locks[shard.file]:
                if path is not None:
                    self._check(shard, path)
                else:
                    path = self._cached(shard)
            return pa.memory_map(str(path))
        file = self._folder.open(shard.file)
        size = file.seek(0, os.SEEK_END)
        if size != shard.size_bytes:
            file.close()
            raise _wrong_size(f"{self._folder.address}/{shard.file}", size, shard)
        return pa.PythonFile(file, "r")

    def _check(self, shard: Shard, path: Path) -> None:
        """Compare a file with its shard, unless that was done and nobody wrote to it since."""
        if not path.is_file():
            raise _damaged(str(path), "is missing")
        status = path.stat()
        state = status.st_size, status.st_mtime_ns, status.st_ino
        if self._seen.get(shard.file) == state:
            return
        if status.st_size != shard.size_bytes:
            raise _wrong_size(str(path), status.st_size, shard)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard.sha256:
            raise _damaged(str(path), "does not have the hash of its index")
        self._seen[shard.file] = state

    def _cached(self, shard: Shard) -> Path:
        """Give the copy of a shard from a bucket; a missing or damaged one is fetched again."""
        assert self._cache is not None
        path = self._cache / f"{shard.sha256}.parquet"
        try:
            self._check(shard, path)
        except DamagedShard:
            self._fetch(shard, path)
            self._check(shard, path)
        return path

    def _fetch(self, shard: Shard, path: Path) -> None:
        """Copy a shard into the cache, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        digest = hashlib.sha256()
        try:
            with self._folder.open(shard.file) as source, unfinished.open("xb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != shard.sha256:
                address = f"{self._folder.address}/{shard.file}"
                raise _damaged(address, "does not have the hash of its index")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def read_shards(folder: Path, split: str) -> Iterator[Row]:
    """Give the rows of a split in the order in which they were written.

    Raises:
        DamagedShard: size or hash of a shard disagree with the index.
        ValueError: the folder has no usable index, or the split is unknown.
    """
    reader = SplitReader(folder, split)
    for group in reader.groups:
        for row in reader.read(group).to_pylist():
            yield Row(**row)


def _wrong_size(address: str, size: int, shard: Shard) -> DamagedShard:
    return _damaged(address, f"has {size} bytes, its index says {shard.size_bytes}")


def _damaged(address: str, what: str) -> DamagedShard:
    return DamagedShard(f"{address} {what}; prepare the data again")
