"""Place: where a data set's shards lie, and whether an unchanged source's lie there already."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import PIL

from components.data.config import DataConfig
from components.data.decode import RULE
from components.data.index import INDEX, Index, parse_index, write_index
from components.data.sources import Source
from components.storage import Folder, MissingFile, open_folder

CARD = "card.html"
QUARANTINE = "quarantine.jsonl"


class Place:
    """The step's output, and, if the shards are kept elsewhere, that folder or bucket.

    There, shards lie at ``FINGERPRINT/LAYOUT/``, and ``sources/KEY.json`` tells which of them an
    unchanged source with unchanged settings gives.

    Args:
        settings: which say where shards are kept.
        source: to prepare.
        output: folder of the step.
    """

    def __init__(self, settings: DataConfig, source: Source, output: Path) -> None:
        self.output = open_folder(output)
        self._store: Folder | None = None
        if settings.target:
            in_bucket = "://" in settings.target
            address = settings.target if in_bucket else str(Path(settings.target).resolve())
            self._store = open_folder(address)
            self._key = f"sources/{_key(settings, source)}"
        if self.output.exists(INDEX):
            raise ValueError(f"{output} already holds shards, which never change; choose another")

    def find(self) -> tuple[Index, int] | None:
        """Give the index of the shards that are there already, and how many images were put aside.

        The step's output receives what it would have received from preparing.
        """
        if self._store is None:
            return None
        try:
            known = json.loads(self._store.read(f"{self._key}.json"))
            folder = self._store.within(known["folder"])
            index = _complete(folder)
            if index is None:
                return None
            for name in (QUARANTINE, CARD):
                self.output.write(name, self._store.read(f"{self._key}/{name}"))
        except MissingFile:
            return None
        index = replace(index, location=folder.address)
        write_index(self.output, index)
        return index, known["quarantined"]

    def shards(self, facts: Index, shard_images: int) -> tuple[Folder, Index | None]:
        """Say where shards go, and give their index if they are there, from another source.

        Args:
            facts: an index without shards.
            shard_images: how many images a shard holds at most.
        """
        if self._store is None:
            return self.output, None
        layout = f"{facts.encoding}-{shard_images}"
        folder = self._store.within(f"{facts.fingerprint}/{layout}")
        return folder, _complete(folder)

    def finish(self, folder: Folder, index: Index, quarantined: int, beside: Path) -> None:
        """Make prepared shards known.

        Args:
            folder: that holds them.
            index: of them.
            quarantined: how many images were put aside.
            beside: folder with the list of these, and the card.
        """
        for name in (QUARANTINE, CARD):
            self.output.upload(beside / name, name)
            if self._store is not None:
                self._store.upload(beside / name, f"{self._key}/{name}")
        if self._store is None:
            return
        facts = {
            "folder": folder.address.removeprefix(self._store.address).strip("/"),
            "quarantined": quarantined,
        }
        self._store.write(f"{self._key}.json", (json.dumps(facts) + "\n").encode())
        write_index(self.output, replace(index, location=folder.address))


def _key(settings: DataConfig, source: Source) -> str:
    """Hash everything that may change the shards."""
    facts = asdict(replace(settings, target=""))
    facts |= {"state": source.state(), "rule": RULE, "pillow": PIL.__version__}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _complete(folder: Folder) -> Index | None:
    """Give a folder's index if all of its shards are there in full length."""
    there = {entry.name: entry.size_bytes for entry in folder.entries()}
    if INDEX not in there:
        return None
    index = parse_index(folder.read(INDEX), f"{folder.address}/{INDEX}")
    if any(there.get(shard.file) != shard.size_bytes for shard in index.shards):
        return None
    return index
