"""Folder: what can be done with files wherever they lie, and what can go wrong."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple


class StorageError(OSError):
    """Something that keeps files from being read or written, said in one line."""


class MissingFile(StorageError, FileNotFoundError):
    """There is no file of that name."""


class MissingBucket(StorageError):
    """There is no bucket of that name."""


class AccessDenied(StorageError, PermissionError):
    """Known here, but not allowed to do this."""


class WrongCredentials(StorageError):
    """Not known here: no credentials, wrong or expired ones."""


class ServerAway(StorageError):
    """The server did not answer, or not sensibly, after several attempts."""


class FileChanged(StorageError):
    """A file was replaced while it was being read."""


class Entry(NamedTuple):
    """One file.

    Attributes:
        name: POSIX path below the folder.
        size_bytes: its length.
        version: changes when the content changes: time of modification, or ETag.
    """

    name: str
    size_bytes: int
    version: str


class Folder(ABC):
    """A folder on disk, or a prefix in a bucket; it need not exist before something is written.

    Names are POSIX paths below the folder. Any method may raise a StorageError.

    Attributes:
        address: a path, or ``s3://BUCKET/PREFIX``.
    """

    address: str

    @abstractmethod
    def entries(self, below: str = "") -> Iterator[Entry]:
        """List all files, also in folders of folders, sorted by name; of one folder if named."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Give a file's content.

        Raises:
            MissingFile: there is none.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file to read here and there in it; one object serves one thread at a time.

        Raises:
            MissingFile: there is none.
            FileChanged: while reading from a bucket, when the file was replaced meanwhile.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file: readers see the old content or the new one, never a part."""

    @abstractmethod
    def upload(self, path: Path, name: str) -> None:
        """Copy a file from this machine, whole or not at all; nothing is sent if it is there."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Say whether there is a file of that name."""

    @abstractmethod
    def within(self, below: str) -> "Folder":
        """Give a folder in this folder."""

    @abstractmethod
    def path(self, name: str) -> Path | None:
        """Say where a file would lie on this machine; None if it lies in a bucket."""


def checked(name: str) -> str:
    """Refuse a name that is not a plain path below the folder."""
    if not name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"a file's name must be a path below its folder, got {name!r}")
    return name
