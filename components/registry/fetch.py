"""Fetch: a registered model, or one that lies in a folder, as the checkpoint of a step."""

import json
import shutil
import tempfile
from pathlib import Path

from components.models.checkpoint import WORDS
from components.registry.config import FetchConfig
from components.registry.models import fetch_checkpoint, find_version


def fetch(settings: FetchConfig, target: Path) -> None:
    """Copy a model's checkpoint into a folder.

    A registered one is called by its address from then on, so that a report on it says which
    version it is about.

    Args:
        settings: which model.
        target: receives the checkpoint.

    Raises:
        ValueError: there is no such model.
    """
    if settings.registered is None:
        if not (Path(settings.model) / WORDS).is_file():
            raise ValueError(f"there is no checkpoint in {settings.model}: {WORDS} is missing")
        shutil.copytree(settings.model, target, dirs_exist_ok=True)
        return
    version = find_version(*settings.registered)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(fetch_checkpoint(version.uri, Path(folder)), target, dirs_exist_ok=True)
    words = json.loads((target / WORDS).read_text(encoding="utf-8"))
    words["provenance"]["stage"] = version.uri
    (target / WORDS).write_text(json.dumps(words, indent=2), encoding="utf-8")
