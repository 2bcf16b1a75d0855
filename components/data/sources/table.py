"""table: images listed with their labels in a CSV or Parquet file."""

import csv
import math
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.sources.listing import Listing
from components.data.sources.source import Published, Record, Refused, Source, cut_test
from components.data.sources.text import read_lines
from components.storage import Folder, open_folder

_TRAIN = ("train", "training")
_VALIDATION = ("validation", "valid", "val", "dev")


class _Entry(NamedTuple):
    """A row of the table; what is missing is empty."""

    number: int
    path: str
    label: str
    split: str


def table(
    *,
    root: str,
    file: str,
    images: str = "",
    path: str = "path",
    label: str = "label",
    split: str = "split",
    test_share: float = 0.1,
    grey: bool = False,
) -> Source:
    """Take the images that a table lists, whose labels may be words or numbers.

    The classes are the labels of the training images, in numerical order if all are numbers, else
    in alphabetical order. Splits are called ``train`` and ``test``; ``validation`` (``val``)
    serves as test, or, beside a ``test``, is more to train on, since our validation split is cut
    from the training images. In a table without splits, images for the test are cut from each class
    in the table's order, so no random generator has a say.

    Args:
        root: path or ``s3://bucket/prefix``.
        file: the table below it, ``.csv`` with a line of headings or ``.parquet``.
        images: folder below the root that the paths start from.
        path: column of the images' paths.
        label: column of their labels.
        split: column of their splits, which may be missing.
        test_share: of each class, where the table names no splits.
        grey: give one channel instead of three.

    Raises:
        ValueError: the table is missing, cannot be read or lacks a column.
    """
    cut_test(1, test_share)  # refuse a wrong share before the work
    folder = open_folder(root)
    if not folder.exists(file):
        raise ValueError(f"{root}/{file} must list the images, and is missing")
    columns = path, label, split
    counts = Counter((e.split, e.label) for e in _read(folder, file, columns) if e.path and e.label)
    roles = _roles({name for name, _ in counts})
    sizes = Counter[str]()  # of the classes, among what is to be trained on
    for (name, class_name), count in counts.items():
        if roles.get(name) == "train":
            sizes[class_name] += count
    classes = _in_order(set(sizes))
    if not classes:
        raise ValueError(f"{root}/{file} lists no image to train on")
    listing = Listing(folder, (images,), (file,))

    def labels() -> Iterator[Record | Refused]:
        seen = Counter[str]()
        for entry in _read(folder, file, columns):
            where = f"{file}, row {entry.number}"
            if not entry.path or not entry.label:
                yield Refused(name=where, reason=f"must have a {path} and a {label}")
            elif entry.split not in roles:
                yield Refused(
                    name=where, reason=f"has the split {entry.split!r}, not train or test"
                )
            else:
                role = roles[entry.split]
                if "test" not in roles.values():
                    tested = cut_test(sizes[entry.label], test_share)
                    role = "test" if seen[entry.label] in tested else "train"
                    seen[entry.label] += 1
                name = posixpath.normpath(posixpath.join(images, entry.path))
                yield Record(split=role, class_name=entry.label, name=name)

    def records() -> Iterator[Record | Refused]:
        return listing.join(labels(), frozenset(classes), (images,))

    return listing.source(classes, records, grey=grey)


def _roles(names: set[str]) -> dict[str, Published]:
    """Say what the table's words for splits mean."""
    tests = [name for name in sorted(names) if name.lower() in ("test", "testing")]
    validations = [name for name in sorted(names) if name.lower() in _VALIDATION]
    roles: dict[str, Published] = {n: "train" for n in sorted(names) if n.lower() in (*_TRAIN, "")}
    roles.update(dict.fromkeys(validations, "train" if tests else "test"))
    roles.update(dict.fromkeys(tests, "test"))
    return roles


def _in_order(labels: set[str]) -> tuple[str, ...]:
    if all(label.isascii() and label.isdecimal() and len(label) < 10 for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def _read(folder: Folder, file: str, columns: tuple[str, str, str]) -> Iterator[_Entry]:
    is_csv = file.lower().endswith(".csv")
    rows = _read_csv(folder, file) if is_csv else _read_parquet(folder, file, columns)
    for number, row in enumerate(rows, 1):
        for column in columns[:2] if number == 1 else ():
            if column not in row:
                known = ", ".join(str(name) for name in row if name is not None)
                raise ValueError(
                    f"{folder.address}/{file} must have a column {column!r}, has {known}"
                )
        yield _Entry(number, *(_text(row.get(column)) for column in columns))


def _read_csv(folder: Folder, file: str) -> Iterator[dict[Any, Any]]:
    try:
        yield from csv.DictReader(read_lines(folder, file))
    except csv.Error as error:
        raise ValueError(f"{folder.address}/{file} is no CSV table: {error}") from error


def _read_parquet(
    folder: Folder, file: str, columns: tuple[str, str, str]
) -> Iterator[dict[Any, Any]]:
    try:
        with folder.open(file) as content:
            found = pq.ParquetFile(content)
            names = [name for name in found.schema_arrow.names if name in columns]
            if not set(columns[:2]) <= set(names):
                yield dict.fromkeys(found.schema_arrow.names)
            for batch in found.iter_batches(columns=names):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{folder.address}/{file} is no Parquet table: {error}") from error


def _text(value: Any) -> str:
    """Give a cell as text; what is missing is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps
    return str(value).strip()
