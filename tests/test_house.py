"""The house is in order: packages, captions, tables, README and import floors agree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import components
import pipelines
from components.attacks import ATTACKS
from components.augmentations import AUGMENTATIONS
from components.data.sources import SOURCES
from components.defences import DEFENCES
from components.models import BACKBONES
from components.objectives import OBJECTIVES
from pipelines import PIPELINES
from pipelines.recipes import RECIPES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE_FILES = sorted((ROOT / "components").rglob("*.py")) + sorted(
    (ROOT / "pipelines").rglob("*.py")
)
TABLES = {
    "attacks": ATTACKS,
    "augmentations": AUGMENTATIONS,
    "backbones": BACKBONES,
    "defences": DEFENCES,
    "objectives": OBJECTIVES,
    "pipelines": PIPELINES,
    "recipes": RECIPES,
    "sources": SOURCES,
}
# Files of a table room that hold no entry but serve those that do.
SUPPORTING = {
    "attacks": {
        "acceleration",
        "climb",
        "folding",
        "geometry",
        "gradients",
        "lanes",
        "losses",
        "planes",
        "sampling",
        "shortening",
        "step_rules",
        "transfer",
    },
    "augmentations": {"boxes", "draws", "gates", "operations"},
    "defences": {
        "attachment",
        "defended",
        "denoising",
        "passing",
        "restoration",
        "two_phase",
    },
    "models": {
        "build",
        "checkpoint",
        "costs",
        "dependent_gates",
        "export",
        "gating",
        "ledger",
        "ml_decoder",
        "pooling",
        "published_costs",
        "serving",
        "tracing",
        "units",
        "weights",
    },
    "objectives": {
        "ascent",
        "budgets",
        "controls",
        "crafting",
        "importance",
        "masks",
        "renewal",
        "watching",
    },
}


def test_both_packages_come_from_here():
    for package in (components, pipelines):
        assert Path(package.__file__).is_relative_to(ROOT)


@pytest.mark.parametrize("path", SOURCE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_opens_with_its_caption(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py" and not text:
        return  # a room with a door
    caption = ast.get_docstring(ast.parse(text)).splitlines()[0]
    assert caption.endswith((".", ":")) and len(caption) < 100


@pytest.mark.parametrize("room", SUPPORTING)
def test_every_file_of_a_table_room_is_in_the_table(room):
    entries = TABLES["backbones" if room == "models" else room]
    modules = {entry.__module__.rpartition(".")[2] for entry in entries.values()}
    files = {path.stem for path in (ROOT / "components" / room).glob("*.py")} - {"__init__"}
    assert files - SUPPORTING[room] <= modules


@pytest.mark.parametrize(
    ("table", "entry"), [(table, entry) for table, entries in TABLES.items() for entry in entries]
)
def test_every_entry_is_in_the_readme(table, entry):
    assert f"`{entry}`" in README, f"{entry} of the {table} is not in README.md"


@pytest.mark.parametrize(
    "folder",
    sorted(
        str(path.parent.relative_to(ROOT))
        for package in ("components", "pipelines")
        for path in (ROOT / package).rglob("__init__.py")
    ),
)
def test_every_folder_is_in_the_floor_plan(folder):
    assert f"{Path(folder).name}/" in README


def test_import_floors_hold():
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
