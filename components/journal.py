"""Notes of a step on their way to the process that writes them to the tracking store."""

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Note = dict[str, Any]
"""One thing that a step said, in JSON's types."""

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Entry:
    """A note and whose it is.

    Attributes:
        step: its name in the run graph.
        author: tells two attempts at the same step apart.
        note: what was said.
    """

    step: str
    author: str
    note: Note


def append(journal: Path, step: str, author: str, note: Note) -> None:
    """Add one entry.

    One line is one write to a file opened for appending, so steps side by side never mix theirs.
    """
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(Entry(step, author, note))) + "\n")


def follow(journal: Path, ended: threading.Event) -> Iterator[list[Entry]]:
    """Give the entries as they come, several times a second and so perhaps none.

    It ends when the event has said that none will come any more, and all are given.
    """
    with journal.open(encoding="utf-8") as file:
        pending, last_look = "", False
        while not last_look:
            last_look = ended.wait(_SECONDS_BETWEEN_LOOKS)
            entries = []
            for line in file:
                pending += line
                if pending.endswith("\n"):
                    entries.append(Entry(**json.loads(pending)))
                    pending = ""
            yield entries
