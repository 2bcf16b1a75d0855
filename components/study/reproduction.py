"""reproduce: every mode of ANP-VS as measured, beside the published numbers, over all seeds."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.report import REPORT, load_report
from components.study.modes import COLUMNS_FILE
from components.study.published import COLUMNS, MODES, PUBLISHED
from components.study.tabulate import TRUSTS, Repeated, read_repeated

REPRODUCTION = "reproduction.json"
SCHEMA = 2

_SHARES = ("clean_accuracy", "white_box_accuracy", "black_box_accuracy")  # printed in percent


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number measured once for each seed, in the unit of the published tables."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return math.fsum(self.values) / len(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None with a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class ModeRow:
    """What one mode came to.

    Attributes:
        mode: a key of MODES.
        ours: by the published columns, and ``zero_weights_percent`` and ``parameters``.
        published: in the order of the columns; None where the tables have no such row.
        robust: honest robust accuracy, worst case over all attacks and views.
        naive: by gradients of the model as it is.
        trust: the worst verdict of its reports.
        layers: white-box vulnerability by feature, ``absolute`` and ``relative``, of the first
            seed.
        gates: every unit's keep probability by gate, of the first seed; empty without gates.
        units: that are left by gate, of the first seed.
    """

    mode: str
    ours: Mapping[str, Figure]
    published: tuple[float, ...] | None
    robust: Repeated
    naive: Repeated
    trust: str
    layers: Mapping[str, tuple[float, ...]]
    gates: Mapping[str, tuple[float, ...]]
    units: Mapping[str, int]

    @property
    def title(self) -> str:
        """The mode's name in print."""
        return MODES[self.mode]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The modes on the same images, under the same attacks.

    Attributes:
        table: the published one beside which they stand.
        norm: of the evaluation's ball.
        epsilon: its radius in pixel units.
        attacks: of the evaluation, by name.
        num_images: that the evaluation attacked.
        column_images: attacked for the published columns; clean accuracy is of all.
        seeds: how many.
        rows: one for each mode.
    """

    table: str
    norm: str
    epsilon: float
    attacks: tuple[str, ...]
    num_images: int
    column_images: int
    seeds: int
    rows: tuple[ModeRow, ...]

    def figures(self) -> dict[str, float]:
        """Give the table's numbers under names of their own."""
        figures = {
            f"{row.mode}.{name}": figure.mean
            for row in self.rows
            for name, figure in row.ours.items()
        }
        return figures | {f"{row.mode}.robust_accuracy": row.robust.mean.value for row in self.rows}


def reproduce(table: str, measured: Sequence[Path]) -> Reproduction:
    """Put what `measure_modes` found together.

    Args:
        table: a key of PUBLISHED.
        measured: a folder for each seed, each with a folder for each mode.

    Raises:
        ValueError: the folders do not hold the same modes.
    """
    modes = [mode for mode in MODES if (measured[0] / mode / REPORT).exists()]
    for folder in measured:
        if missing := [mode for mode in modes if not (folder / mode / REPORT).exists()]:
            raise ValueError(f"{folder} lacks the modes {missing}")
    first, _ = load_report(measured[0] / modes[0])
    return Reproduction(
        table=table,
        norm=first.norm,
        epsilon=first.epsilon,
        attacks=tuple(dict.fromkeys(attack.name for attack in first.attacks)),
        num_images=first.robust_accuracy.num_images,
        column_images=_read_columns(measured[0] / modes[0])["attacked_images"],
        seeds=len(measured),
        rows=tuple(_row(mode, PUBLISHED[table].get(mode), measured) for mode in modes),
    )


def save_reproduction(found: Reproduction, folder: Path) -> None:
    """Write ``reproduction.json`` into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"schema": SCHEMA, **dataclasses.asdict(found)}
    (folder / REPRODUCTION).write_text(
        json.dumps(values, indent=1, allow_nan=False), encoding="utf-8"
    )


def load_reproduction(folder: Path) -> Reproduction:
    """Read what `save_reproduction` wrote.

    Raises:
        ValueError: the file has another schema.
    """
    values = json.loads((folder / REPRODUCTION).read_text(encoding="utf-8"))
    if (schema := values.pop("schema", None)) != SCHEMA:
        raise ValueError(
            f"{folder / REPRODUCTION} has schema {schema}, this version reads {SCHEMA}"
        )
    rows = tuple(_read_row(row) for row in values.pop("rows"))
    return Reproduction(**{**values, "attacks": tuple(values["attacks"]), "rows": rows})


def _row(mode: str, published: tuple[float, ...] | None, measured: Sequence[Path]) -> ModeRow:
    columns = [_read_columns(folder / mode) for folder in measured]
    reports = [load_report(folder / mode)[0] for folder in measured]
    names = (*COLUMNS, "zero_weights_percent", "parameters")
    first = columns[0]
    return ModeRow(
        mode=mode,
        ours={
            name: Figure(values=tuple(_printed(name, c[name]) for c in columns)) for name in names
        },
        published=published,
        robust=Repeated.of([report.robust_accuracy for report in reports]),
        naive=Repeated.of([report.naive_robust_accuracy for report in reports]),
        trust=min((report.trust for report in reports), key=TRUSTS.index),
        layers={
            "absolute": tuple(first["layer_vulnerability"]),
            "relative": tuple(first["relative_vulnerability"]),
        },
        gates={name: tuple(units) for name, units in first["gates"].items()},
        units=first["units"],
    )


def _read_columns(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / COLUMNS_FILE).read_text(encoding="utf-8")))


def _printed(name: str, value: float) -> float:
    """Give a column in the unit of the published tables."""
    return 100 * value if name in _SHARES else float(value)


def _read_row(values: dict[str, Any]) -> ModeRow:
    published = values["published"]
    for name in ("layers", "gates"):
        values[name] = {key: tuple(numbers) for key, numbers in values[name].items()}
    return ModeRow(
        **{
            **values,
            "ours": {n: Figure(values=tuple(f["values"])) for n, f in values["ours"].items()},
            "published": None if published is None else tuple(published),
            "robust": read_repeated(values["robust"]),
            "naive": read_repeated(values["naive"]),
        }
    )
