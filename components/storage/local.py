"""LocalFolder: files on disk, written beside their place and moved there when complete."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from components.storage.folder import (
    AccessDenied,
    Entry,
    Folder,
    MissingFile,
    StorageError,
    checked,
)

_UNFINISHED = ".unfinished"  # marks what an interrupted process may leave behind


class LocalFolder(Folder):
    """A folder on disk."""

    def __init__(self, root: Path) -> None:
        self.address, self._root = str(root), root

    def entries(self, below: str = "") -> Iterator[Entry]:
        """List all files in the order in which a bucket does."""
        start = self._root / checked(below) if below else self._root
        with _said(start):
            if start.is_dir():
                yield from _walk(start, f"{below}/" if below else "")

    def read(self, name: str) -> bytes:
        """Give a file's content."""
        path = self.path(name)
        with _said(path):
            return path.read_bytes()

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading."""
        path = self.path(name)
        with _said(path):
            return path.open("rb")

    def write(self, name: str, content: bytes) -> None:
        """Write a file, complete or not at all, also when the power fails."""
        with _replacing(self.path(name)) as file:
            file.write(content)

    def upload(self, path: Path, name: str) -> None:
        """Copy a file, unless the same content is there."""
        target = self.path(name)
        with _said(path), path.open("rb") as source:
            if not _same(path, target):
                with _replacing(target) as file:
                    shutil.copyfileobj(source, file, 1 << 20)

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        return self.path(name).is_file()

    def within(self, below: str) -> "LocalFolder":
        """Give a folder in this folder."""
        return LocalFolder(self._root / checked(below))

    def path(self, name: str) -> Path:
        """Say where a file lies."""
        return self._root / checked(name)


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        # A folder's slash takes part in the order, as it does in a bucket's keys.
        named = sorted((item.name + "/" * item.is_dir(), item) for item in found)
    for name, item in named:
        if name.endswith("/"):
            yield from _walk(folder / item.name, prefix + name)
        elif item.is_file() and not _is_unfinished(name):
            status = item.stat()
            yield Entry(prefix + name, status.st_size, str(status.st_mtime_ns))


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and name.endswith(_UNFINISHED)


def _same(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    return one.samefile(other) or _digest(one) == _digest(other)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of another when all is written."""
    with _said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name[:100]}-{secrets.token_hex(8)}{_UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _keep_name(path.parent)


def _keep_name(folder: Path) -> None:
    """Make the folder remember the new name even if the power fails."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Turn the system's errors into one line that names the file."""
    try:
        yield
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{path} does not exist") from error
    except PermissionError as error:
        raise AccessDenied(f"{path} may not be read or written; change its rights") from error
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror or error
        raise StorageError(f"{path}: {reason}") from error
