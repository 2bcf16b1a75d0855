"""tabulate: the reports of repeated trainings as one table, naive numbers beside honest ones."""

import dataclasses
import html
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from components.evaluation.report import Accuracy, RobustnessReport, load_report

TABLE, PAGE = "table.json", "table.html"
SCHEMA = 1

TRUSTS = ("masked", "doubtful", "trusted")  # the worst first
_TEMPLATE = Path(__file__).with_name("table.html")


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """An accuracy measured once for each seed, on the same images.

    Attributes:
        values: one for each seed, in [0, 1].
        mean: of the values, with the 95 % interval that so many images allow it. The same image
            classified by models of several seeds counts once: it is no second witness.
        deviation: sample standard deviation over the seeds; None with a single one.
    """

    values: tuple[float, ...]
    mean: Accuracy
    deviation: float | None

    @classmethod
    def of(cls, accuracies: Sequence[Accuracy]) -> "Repeated":
        """Put together what several seeds came to."""
        values = tuple(accuracy.value for accuracy in accuracies)
        mean = Accuracy.of(min(math.fsum(values) / len(values), 1.0), accuracies[0].num_images)
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(values=values, mean=mean, deviation=deviation)

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation * 100:.1f}"
        return f"{self.mean.value * 100:.1f}{spread}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one arm came to.

    Attributes:
        arm: its name.
        seeds: it was trained with.
        clean: accuracy without any attack.
        naive: robust accuracy by gradients of the model as it is.
        robust: the honest robust accuracy, worst case over all attacks and views.
        gain: robust accuracy less that of the first arm, seed by seed: mean and standard
            deviation; the latter None with a single seed.
        trust: the worst verdict of its reports.
    """

    arm: str
    seeds: tuple[int, ...]
    clean: Repeated
    naive: Repeated
    robust: Repeated
    gain: tuple[float, float | None]
    trust: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A study: its arms on the same images, under the same attacks.

    Attributes:
        norm: of the ball.
        epsilon: its radius in pixel units.
        attacks: by name.
        num_images: attacked.
        rows: one for each arm, the first being what the others are compared with.
    """

    norm: str
    epsilon: float
    attacks: tuple[str, ...]
    num_images: int
    rows: tuple[Row, ...]

    def figures(self) -> dict[str, float]:
        """Give the table's numbers under names of their own."""
        return {
            f"{row.arm}.{name}": accuracy.mean.value
            for row in self.rows
            for name, accuracy in (
                ("clean_accuracy", row.clean),
                ("naive_robust_accuracy", row.naive),
                ("robust_accuracy", row.robust),
            )
        }


def tabulate(trainings: Sequence[Mapping[str, str]], reports: Sequence[Path]) -> Table:
    """Put the reports of a study into one table.

    Args:
        trainings: ``arm``, ``seed`` and step name ``train`` of each training.
        reports: folders of the reports, in any order; each is of the model of one training.

    Raises:
        ValueError: a training has no report, or two reports cannot be compared.
    """
    found = {report.title: report for report, _ in map(load_report, reports)}
    if missing := [t["train"] for t in trainings if t["train"] not in found]:
        raise ValueError(f"there is no report of {', '.join(missing)}")
    _check_comparable(list(found.values()))
    arms: dict[str, dict[int, RobustnessReport]] = {}
    for training in trainings:
        arms.setdefault(training["arm"], {})[int(training["seed"])] = found[training["train"]]
    baseline = next(iter(arms.values()))
    first = next(iter(baseline.values()))
    return Table(
        norm=first.norm,
        epsilon=first.epsilon,
        attacks=tuple(dict.fromkeys(attack.name for attack in first.attacks)),
        num_images=first.robust_accuracy.num_images,
        rows=tuple(_row(arm, measured, baseline) for arm, measured in arms.items()),
    )


def save_table(table: Table, folder: Path) -> None:
    """Write ``table.json`` and ``table.html`` into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"schema": SCHEMA, **dataclasses.asdict(table)}
    text = json.dumps(values, indent=2, allow_nan=False)
    (folder / TABLE).write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(_page(table), encoding="utf-8")


def load_table(folder: Path) -> Table:
    """Read what `save_table` wrote.

    Raises:
        ValueError: the table has another schema.
    """
    values = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    if (schema := values.pop("schema", None)) != SCHEMA:
        raise ValueError(f"{folder / TABLE} has schema {schema}, this version reads {SCHEMA}")
    rows = tuple(_read_row(row) for row in values.pop("rows"))
    return Table(**{**values, "attacks": tuple(values["attacks"]), "rows": rows})


def _check_comparable(reports: Sequence[RobustnessReport]) -> None:
    facts: dict[str, Callable[[RobustnessReport], Any]] = {
        "data": lambda r: r.data["fingerprint"],
        "threat model": lambda r: (r.norm, r.epsilon),
        "attacks": lambda r: sorted({attack.name for attack in r.attacks}),
        "number of images": lambda r: r.robust_accuracy.num_images,
    }
    for what, fact in facts.items():
        values = [fact(report) for report in reports]
        if any(value != values[0] for value in values):
            raise ValueError(f"the reports of a study must agree on the {what}, got {values}")


def _row(
    arm: str,
    measured: Mapping[int, RobustnessReport],
    baseline: Mapping[int, RobustnessReport],
) -> Row:
    gains = [
        report.robust_accuracy.value - baseline[seed].robust_accuracy.value
        for seed, report in measured.items()
    ]
    reports = list(measured.values())
    return Row(
        arm=arm,
        seeds=tuple(measured),
        clean=Repeated.of([report.clean_accuracy for report in reports]),
        naive=Repeated.of([report.naive_robust_accuracy for report in reports]),
        robust=Repeated.of([report.robust_accuracy for report in reports]),
        gain=(statistics.fmean(gains), statistics.stdev(gains) if len(gains) > 1 else None),
        trust=min((report.trust for report in reports), key=TRUSTS.index),
    )


def _read_row(values: dict[str, Any]) -> Row:
    for name in ("clean", "naive", "robust"):
        values[name] = read_repeated(values[name])
    return Row(**{**values, "seeds": tuple(values["seeds"]), "gain": tuple(values["gain"])})


def read_repeated(values: Mapping[str, Any]) -> Repeated:
    """Read a repeated accuracy out of JSON."""
    mean = Accuracy(**values["mean"])
    return Repeated(values=tuple(values["values"]), mean=mean, deviation=values["deviation"])


def tell_gain(row: Row) -> str:
    """Write the difference from the first arm in percentage points."""
    mean, deviation = row.gain
    return f"{mean * 100:+.1f}" + ("" if deviation is None else f" ± {deviation * 100:.1f}")


def _page(table: Table) -> str:
    rows = "\n".join(_html_row(row, first=row is table.rows[0]) for row in table.rows)
    seeds = len(table.rows[0].seeds)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        threat=f"{table.norm}, radius {table.epsilon:g}",
        attacks=html.escape(", ".join(table.attacks)),
        num_images=f"{table.num_images:,}",
        seeds=f"{seeds} seed{'s' if seeds > 1 else ''}",
        rows=rows,
        chart=_chart(table),
    )


def _html_row(row: Row, *, first: bool) -> str:
    cells = "".join(
        f"<td>{accuracy}<small>{accuracy.mean.low * 100:.1f} to "
        f"{accuracy.mean.high * 100:.1f}</small></td>"
        for accuracy in (row.clean, row.naive, row.robust)
    )
    gain = "—" if first else tell_gain(row)
    name = html.escape(row.arm.replace("_", " "))
    return (
        f'<tr><th scope="row">{name}</th>{cells}<td>{gain}</td>'
        f'<td class="{row.trust}">{row.trust}</td></tr>'
    )


def _chart(table: Table) -> str:
    """Draw a bar per arm for the honest number, its interval, and a tick where the naive one is."""
    left, width, height = 190, 420, 34
    lines = []
    for index, row in enumerate(table.rows):
        y = 10 + index * height
        mean, naive = row.robust.mean, row.naive.mean.value
        x, low, high, tick = (
            left + width * value for value in (mean.value, mean.low, mean.high, naive)
        )
        lines += [
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">'
            f"{html.escape(row.arm.replace('_', ' '))}</text>",
            f'<rect class="{row.trust}" x="{left}" y="{y}" width="{x - left:.1f}" height="22"/>',
            f'<path class="interval" d="M{low:.1f} {y + 11}H{high:.1f}"/>',
            f'<path class="naive" d="M{tick:.1f} {y - 2}v26"/>',
            f'<text x="{max(x, high, tick) + 8:.1f}" y="{y + 16}">{mean.value * 100:.1f} %</text>',
        ]
    tall = 20 + len(table.rows) * height
    words = "; ".join(
        f"{row.arm}: honest {row.robust} %, naive {row.naive} %" for row in table.rows
    )
    return (
        f'<svg viewBox="0 0 {left + width + 80} {tall}" role="img" '
        f'aria-label="{html.escape(words)}">{"".join(lines)}</svg>'
    )
