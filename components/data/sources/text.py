"""read_lines, named_classes, position_of: lists of labels, a line at a time."""

import io
from collections.abc import Iterator, Sequence

from components.storage import Folder


def read_lines(folder: Folder, name: str) -> Iterator[str]:
    """Give a text file's lines without holding all of them; foreign bytes become question marks.

    Raises:
        MissingFile: there is no such file.
    """
    with (
        folder.open(name) as file,
        io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="") as lines,
    ):
        yield from lines


def named_classes(num_classes: int, class_names: Sequence[str]) -> tuple[str, ...]:
    """Give the names of classes that lists of labels only number.

    Args:
        num_classes: how many there are.
        class_names: one for each, or none; then they are called by their numbers.

    Raises:
        ValueError: there are no two classes, or names are missing, doubled or no text.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    names = tuple(class_names) or tuple(map(str, range(num_classes)))
    if len(set(names)) != num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be {num_classes} different texts, got {names!r}")
    return names


def position_of(label: str, num_classes: int) -> int | None:
    """Read a label as the position of its class; None if it is none."""
    # Longer numbers are out of range, and Python refuses to read very long ones.
    if not (label.isascii() and label.isdecimal() and len(label) < 10):
        return None
    return int(label) if int(label) < num_classes else None
