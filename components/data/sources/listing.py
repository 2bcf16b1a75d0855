"""Listing: the files of a source, listed once into a temporary database, and joined with labels."""

import hashlib
import sqlite3
import weakref
from collections.abc import Callable, Container, Iterable, Iterator

from components.data.sources.source import SUFFIXES, Record, Refused, Source
from components.storage import Folder


class Listing:
    """Files below a folder, without hidden ones; it lives in one thread.

    Args:
        folder: to list.
        below: the folders in it that count; all if none is named.
        lists: files in them or elsewhere that hold labels; part of the state, and no images.
    """

    def __init__(
        self, folder: Folder, below: Iterable[str] = ("",), lists: Iterable[str] = ()
    ) -> None:
        self.folder = folder
        # A temporary file that goes with the connection, which any thread may have to close: the
        # one in which nobody needs the listing any more.
        self._db = sqlite3.connect("", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.execute("CREATE TABLE files (name TEXT PRIMARY KEY, size, version) WITHOUT ROWID")
        for part in below:
            self._add(part)
        # By their content, since nothing else tells the version of a single file.
        self._lists = {name: hashlib.sha256(folder.read(name)).hexdigest() for name in lists}

    def _add(self, part: str) -> None:
        for entry in self.folder.entries(part):
            if any(step.startswith(".") for step in entry.name.split("/")):
                continue
            try:
                self._db.execute("INSERT OR IGNORE INTO files VALUES (?, ?, ?)", entry)
            except UnicodeEncodeError:
                raise ValueError(
                    f"{self.folder.address} holds {entry.name!r}, whose name is no UTF-8; rename it"
                ) from None

    def source(
        self,
        classes: tuple[str, ...],
        records: Callable[[], Iterator[Record | Refused]],
        *,
        grey: bool,
    ) -> Source:
        """Give the source whose files these are."""
        return Source(
            classes=classes, grey=grey, records=records, read=self.folder.read, state=self.state
        )

    def names(self, below: str = "") -> Iterator[str]:
        """Give the files below a folder, in order of their names."""
        if below:
            bounds = f"{below}/", f"{below}0"  # "0" follows "/"
            query = "SELECT name FROM files WHERE name >= ? AND name < ? ORDER BY name"
            found = self._db.execute(query, bounds)
        else:
            found = self._db.execute("SELECT name FROM files ORDER BY name")
        for (name,) in found:
            yield name

    def folders(self, below: str = "") -> tuple[str, ...]:
        """Give the names of the folders in a folder that hold files."""
        start = len(below) + 1 if below else 0
        found: dict[str, None] = {}
        for name in self.names(below):
            step, slash, _ = name[start:].partition("/")
            if slash:
                found[step] = None
        return tuple(sorted(found))

    def __contains__(self, name: object) -> bool:
        try:
            found = self._db.execute("SELECT 1 FROM files WHERE name = ?", (name,)).fetchone()
        except UnicodeEncodeError:
            return False
        return found is not None

    def state(self) -> str:
        """Hash names, sizes and versions."""
        digest = hashlib.sha256(repr(sorted(self._lists.items())).encode())
        for row in self._db.execute("SELECT * FROM files ORDER BY name"):
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def images(self, below: str) -> Iterator[str | Refused]:
        """Give the images right in a folder by name; whatever else lies there is refused."""
        for name in self.names(below):
            yield is_image(name, below)

    def join(
        self, labels: Iterable[Record | Refused], classes: Container[str], images: Iterable[str]
    ) -> Iterator[Record | Refused]:
        """Hold a list of labels against the files.

        Refused are labels of no class, labels without a file, files without a label, and files that
        are listed more than once: all of their entries if their labels differ, the training entries
        if they are also tested on, the later entries otherwise.

        Args:
            labels: in the order in which the records are given.
            classes: that there are.
            images: folders whose files must have a label.
        """
        listed = sqlite3.connect("")
        listed.execute("CREATE TABLE labels (name TEXT, split TEXT, class TEXT)")
        for entry in labels:
            if isinstance(entry, Refused):
                yield entry
            elif entry.class_name not in classes:
                reason = f"has the label {entry.class_name!r}, which is none of the classes"
                yield Refused(name=entry.name, reason=reason)
            elif entry.name not in self:
                yield Refused(name=entry.name, reason="has a label, but is missing")
            else:
                row = entry.name, entry.split, entry.class_name
                listed.execute("INSERT INTO labels VALUES (?, ?, ?)", row)
        listed.execute("CREATE INDEX names ON labels (name)")
        yield from _without_repeated(listed)
        for below in images:
            for name in self.names(below):
                found = listed.execute("SELECT 1 FROM labels WHERE name = ?", (name,)).fetchone()
                if found is None and name.lower().endswith(SUFFIXES):
                    yield Refused(name=name, reason="has no label")
        listed.close()


def _without_repeated(listed: sqlite3.Connection) -> Iterator[Record | Refused]:
    rows = listed.execute("SELECT rowid, name, split, class FROM labels ORDER BY rowid")
    for number, name, split, class_name in rows:
        low, high, first, tested, count = listed.execute(
            "SELECT min(class), max(class), min(CASE WHEN split = ? THEN rowid END), "
            "max(split = 'test'), count(*) FROM labels WHERE name = ?",
            (split, name),
        ).fetchone()
        if count == 1:
            yield Record(split=split, class_name=class_name, name=name)
        elif low != high:
            yield Refused(name=name, reason=f"is listed with the labels {low!r} and {high!r}")
        elif tested and split == "train":
            yield Refused(name=name, reason="is listed to train and to test; the test keeps it")
        elif number != first:
            yield Refused(name=name, reason="is listed more than once")
        else:
            yield Record(split=split, class_name=class_name, name=name)


def is_image(name: str, below: str) -> str | Refused:
    """Give a name back if it is an image's and lies right in a folder."""
    if name.rpartition("/")[0] != below:
        return Refused(name=name, reason=f"does not lie right in {below}")
    if not name.lower().endswith(SUFFIXES):
        return Refused(name=name, reason=f"is none of {', '.join(SUFFIXES)}")
    return name


def find(folder: Folder, places: Iterable[str], file: str) -> Folder:
    """Give the first of several places in a folder that holds a file.

    Args:
        folder: the root that the user named.
        places: below it, most specific first; empty for itself.
        file: that must be there, or be there with ``.gz`` behind its name.

    Raises:
        ValueError: none of them does.
    """
    places = tuple(places)
    for place in places:
        there = folder.within(place) if place else folder
        if there.exists(file) or there.exists(f"{file}.gz"):
            return there
    where = ", ".join(f"{folder.address}/{place}".rstrip("/") for place in places)
    raise ValueError(f"{file} must lie in one of {where}, and is missing")
