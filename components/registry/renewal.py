"""Renewal, save_renewal, load_renewal: whether a model is trained again, from where, and why."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

RENEWAL = "renewal.json"

NOTHING, FIRST, AFRESH, ONWARDS = "nothing", "first", "afresh", "onwards"


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """Whether a model is trained again, and from where.

    Attributes:
        action: ``nothing`` is to be trained; the ``first`` model that knows such images is, against
            nobody; one is ``afresh``, from weights of its own, against the champion; or ``onwards``
            from the champion's.
        reason: in one sentence for people.
    """

    action: str
    reason: str

    def __str__(self) -> str:
        return f"{'nothing to do' if self.action == NOTHING else 'trained'}: {self.reason}"


def save_renewal(renewal: Renewal, folder: Path) -> None:
    """Write ``renewal.json`` into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RENEWAL).write_text(json.dumps(dataclasses.asdict(renewal)), encoding="utf-8")


def load_renewal(folder: Path) -> Renewal:
    """Read what `save_renewal` wrote."""
    return Renewal(**json.loads((folder / RENEWAL).read_text(encoding="utf-8")))
