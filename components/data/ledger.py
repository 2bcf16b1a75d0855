"""Ledger: every image of a data set and what became of it, in a database file, not in memory."""

import itertools
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from components.data.reading import Row
from components.data.shards import Encoded
from components.data.sources.source import Record, Refused
from components.data.statistics import Sums

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE listed (number INTEGER PRIMARY KEY, published TEXT, label INTEGER, name TEXT);
CREATE TABLE cut (published TEXT, place REAL, split TEXT, label INTEGER, name TEXT);
CREATE TABLE images (rank INTEGER PRIMARY KEY, split TEXT, label INTEGER, name TEXT);
CREATE TABLE decoded (
    rank INTEGER PRIMARY KEY, id TEXT, width INTEGER, height INTEGER, sums TEXT,
    start INTEGER, size INTEGER
);
CREATE TABLE quarantined (
    number INTEGER PRIMARY KEY, rank INTEGER, name TEXT, split TEXT, class TEXT, reason TEXT,
    broken INTEGER
);
"""

_KEPT = (
    "SELECT rank, split, name, label, width, height, id, sums, start, size "
    "FROM images JOIN decoded USING (rank) "
    "WHERE rank NOT IN (SELECT rank FROM quarantined WHERE rank IS NOT NULL)"
)


class Planned(NamedTuple):
    """An image that is to be decoded."""

    rank: int
    split: str
    label: int
    name: str


class Quarantined(NamedTuple):
    """An image that was put aside, as ``quarantine.jsonl`` lists it.

    Attributes:
        name: what the source calls it.
        split: where it would have gone; empty where nobody knows.
        class_name: its class; empty where nobody knows.
        reason: completes the sentence that the name begins.
    """

    name: str
    split: str
    class_name: str
    reason: str

    def to_json(self) -> str:
        """Give one line of the list."""
        facts = self._asdict()
        return json.dumps({"class" if k == "class_name" else k: v for k, v in facts.items()})


class Counts(NamedTuple):
    """Images that the source listed, those of them put aside, those of them that are broken."""

    listed: int
    quarantined: int
    broken: int


class Ledger:
    """Lists, cuts, decoded images and what was put aside; used as a context manager.

    Args:
        folder: for the database and the encoded images, for as long as the ledger is open.
        classes: their names, in the order of the labels.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._db = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")
        self._images: BinaryIO = (folder / "images").open("w+b")
        self._end = self._listed = 0

    def list_records(self, records: Iterable[Record | Refused]) -> Counter[tuple[str, str]]:
        """Write down what the source has; count images per published split and class."""
        labels = {name: label for label, name in enumerate(self.classes)}
        sizes = Counter[tuple[str, str]]()
        for record in records:
            self._listed += 1
            if isinstance(record, Refused):
                self._put_aside(None, record.name, "", "", record.reason, broken=True)
                continue
            sizes[record.split, record.class_name] += 1
            row = record.split, labels[record.class_name], record.name
            self._db.execute("INSERT INTO listed (published, label, name) VALUES (?, ?, ?)", row)
        return sizes

    def cut_validation(
        self, sizes: Counter[tuple[str, str]], cuts: dict[str, int], seed: int, *, mixed: bool
    ) -> None:
        """Send each class's cut from train to validation, and settle the order of the images.

        Selection sampling: Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S. Each class
        draws from its own generator, so that a new class leaves the cuts of the others alone.

        Args:
            sizes: images per published split and class.
            cuts: how many of each class's training images validate.
            seed: of the draws.
            mixed: keep the source's order; otherwise the classes are interleaved in proportion to
                their sizes, so that the first images of a split are a fair sample of it.
        """
        draws = {name: random.Random(f"{seed} {name}") for name in self.classes}
        left = {name: sizes["train", name] for name in self.classes}
        wanted, seen = dict(cuts), Counter[tuple[str, str]]()

        def placed() -> Iterator[tuple[str, float, str, int, str]]:
            listed = self._db.execute("SELECT published, label, name FROM listed ORDER BY number")
            for published, label, name in listed:
                kind = self.classes[label]
                place = (seen[published, kind] + 0.5) / sizes[published, kind]
                seen[published, kind] += 1
                split = published
                if published == "train":
                    chosen = draws[kind].random() * left[kind] < wanted[kind]
                    left[kind] -= 1
                    wanted[kind] -= chosen
                    split = "validation" if chosen else "train"
                yield published, 0.0 if mixed else place, split, label, name

        self._db.executemany("INSERT INTO cut VALUES (?, ?, ?, ?, ?)", placed())
        order = "rowid" if mixed else "place, label, rowid"
        # Test images first: of an image that is in both, the test split keeps its copy.
        self._db.execute(
            "INSERT INTO images (split, label, name) SELECT split, label, name FROM cut "
            f"ORDER BY published, {order}"
        )
        self._db.execute("DROP TABLE listed")
        self._db.execute("DROP TABLE cut")

    def planned(self) -> Iterator[Planned]:
        """Give the images to decode, the test split first."""
        yield from map(Planned._make, self._db.execute("SELECT * FROM images ORDER BY rank"))

    def keep(self, rank: int, encoded: Encoded) -> None:
        """Write down a decoded image."""
        row, end = encoded.row, self._end
        self._images.write(row.image)
        self._end += len(row.image)
        self._db.execute(
            "INSERT INTO decoded VALUES (?, ?, ?, ?, ?, ?, ?)",
            (rank, row.id, row.width, row.height, json.dumps(encoded.sums), end, len(row.image)),
        )

    def put_aside(self, image: Planned, reason: str, *, broken: bool = True) -> None:
        """Put an image into quarantine.

        Args:
            image: that is not to be written.
            reason: completes the sentence that its name begins.
            broken: whether it is unusable, and not just repeated.
        """
        class_name = self.classes[image.label]
        self._put_aside(image.rank, image.name, image.split, class_name, reason, broken=broken)

    def _put_aside(
        self,
        rank: int | None,
        name: str,
        split: str,
        class_name: str,
        reason: str,
        *,
        broken: bool,
    ) -> None:
        self._db.execute(
            "INSERT INTO quarantined (rank, name, split, class, reason, broken) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (rank, name, split, class_name, reason, broken),
        )

    def settle_repeated(self) -> None:
        """Put repeated pixels aside: within the test and the training images, then across.

        Of equal images with one label the first stays; with several labels none does. Training
        images that are also tested on go, so that no answer is known before the exam.
        """
        self._db.execute("CREATE INDEX ids ON decoded (id)")
        repeated = self._db.execute(
            "SELECT id, rank, split, label, name FROM decoded JOIN images USING (rank) WHERE id IN "
            "(SELECT id FROM decoded GROUP BY id HAVING count(*) > 1) ORDER BY id, rank"
        )
        for _, equal in itertools.groupby(repeated, key=lambda row: row[0]):
            for image, reason in self._judge([Planned(*row[1:]) for row in equal]):
                self.put_aside(image, reason, broken=False)

    def _judge(self, equal: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
        tested = [image for image in equal if image.split == "test"]
        trained = [image for image in equal if image.split != "test"]
        for part in (tested, trained):
            for image in part:
                others = (other for other in part if other.label != image.label)
                if other := next(others, None):
                    kind = self.classes[other.label]
                    yield image, f"has the pixels of {other.name}, which is labelled {kind}"
                elif image is not part[0]:
                    yield image, f"has the pixels of {part[0].name}"
        if all(part and len({image.label for image in part}) == 1 for part in (tested, trained)):
            yield trained[0], f"has the pixels of {tested[0].name}, which is in the test split"

    def counts(self) -> Counts:
        """Say how many images there are, how many were put aside, and how many are broken."""
        aside = self._db.execute("SELECT count(*), total(broken) FROM quarantined").fetchone()
        return Counts(self._listed, int(aside[0]), int(aside[1]))

    def quarantined(self, *, only_broken: bool = False) -> Iterator[Quarantined]:
        """Give what was put aside: what no list knows first, then in the order of the images."""
        rows = self._db.execute(
            "SELECT name, split, class, reason FROM quarantined WHERE broken >= ? "
            "ORDER BY coalesce(rank, -1), number",
            (only_broken,),
        )
        yield from map(Quarantined._make, rows)

    def rows(self, *, with_images: bool = True) -> Iterator[Encoded]:
        """Give what is to be written, in its order; without images where only facts are wanted."""
        return self._encoded(f"{_KEPT} ORDER BY rank", (), with_images=with_images)

    def first(self, count: int, num_classes: int) -> Iterator[Encoded]:
        """Give the first training images of each of the first classes."""
        query = (
            "SELECT * FROM ("
            "SELECT *, row_number() OVER (PARTITION BY label ORDER BY rank) AS place "
            f"FROM ({_KEPT}) WHERE split = 'train' AND label < ?) WHERE place <= ? ORDER BY rank"
        )
        return self._encoded(query, (num_classes, count), with_images=True)

    def _encoded(
        self, query: str, values: tuple[int, ...], *, with_images: bool
    ) -> Iterator[Encoded]:
        self._images.flush()
        for _, split, name, label, width, height, id, sums, start, size, *_ in self._db.execute(
            query, values
        ):
            image = self._read(start, size) if with_images else b""
            levels, squares = json.loads(sums)
            row = Row(image, label, width, height, id)
            yield Encoded(split, name, row, Sums(tuple(levels), tuple(squares)))

    def _read(self, start: int, size: int) -> bytes:
        self._images.seek(start)
        return self._images.read(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._images.close()
