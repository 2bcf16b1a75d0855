"""Versions of a registered model shown in a terminal: side by side, and rule by rule."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.evaluation.report import Accuracy
from components.registry.comparison import (
    Entry,
    compare_all,
    differing_settings,
    lineage,
    to_values,
    worst_per_attack,
)
from components.registry.config import PromotionConfig
from components.registry.models import Version, find_version
from components.registry.verdict import Rule
from pipelines.summary import TRUST_COLOURS

_BESIDE_FIRST = 3  # versions that fit 80 columns beside the first one


def policy_of(version: Version) -> PromotionConfig:
    """Give the rules that a version was registered with, or the usual ones."""
    if text := version.tags.get("policy"):
        return PromotionConfig.from_json(text)
    return PromotionConfig(model_name=version.name)


def parse_address(address: str) -> Version:
    """Find the version that ``models:/NAME@alias`` or ``models:/NAME/VERSION`` stands for.

    Raises:
        ValueError: it is not written so, or there is no such version.
    """
    match = re.fullmatch(r"models:/([^/@]+)[/@]([^/@]+)", address)
    if match is None:
        raise ValueError(f"a version is models:/NAME@alias or models:/NAME/VERSION, not {address}")
    return find_version(*match.groups())


def write_json(entries: Sequence[Entry], target: Path) -> None:
    """Write a comparison for scripts."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_values(entries), indent=2, allow_nan=False)
    target.write_text(text + "\n", encoding="utf-8")


def show_comparison(entries: Sequence[Entry], console: Console) -> None:
    """Print versions side by side, the first one beside up to three others at a time."""
    first, *others = entries
    for start in range(0, max(len(others), 1), _BESIDE_FIRST):
        console.print(_table([first, *others[start : start + _BESIDE_FIRST]]))
    for pair in compare_all(entries):
        colour = "yellow" if pair.missing else "default"
        console.print(f"[{colour}]{escape(str(pair))}[/{colour}]", highlight=False)
        if pair.missing:
            console.print(
                "  --evaluate --data SHARDS measures it as the first one was", style="dim"
            )
    for entry in entries:
        facts = ", ".join(f"{name} {word:.12}" for name, word in _origin(entry))
        console.print(f"Version {entry.version.number} comes from {facts}", style="dim")


def show_rule(rule: Rule, console: Console) -> None:
    """Print whether a rule holds, and what was found."""
    mark = "[green]✓[/green]" if rule.passed else "[red]✗[/red]"
    console.print(f"{mark} {rule.name}: {escape(rule.reason)}", highlight=False, soft_wrap=True)


def _origin(entry: Entry) -> Iterator[tuple[str, str]]:
    facts = lineage(entry)
    for name in ("stage", "pipeline run", "weights", "started from", "trained on"):
        if name in facts:
            yield name, facts[name] if name != "pipeline run" else f"{facts[name]:.24}"


def _table(entries: Sequence[Entry]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("version", max_width=24)
    for entry in entries:
        table.add_column(entry.label.replace(" ", "\n"), justify="right", overflow="fold")
    for name, cells in _rows(entries):
        table.add_row(name, *cells)
    differing = differing_settings(entries)
    if differing:
        table.add_section()
    for name, values in differing.items():
        table.add_row(f"[dim]{escape(name)}", *(escape(value[:60]) for value in values))
    return table


def _rows(entries: Sequence[Entry]) -> Iterator[tuple[str, list[str]]]:
    reports = [entry.report for entry in entries]
    yield "trust", [f"[{TRUST_COLOURS[r.trust]}]{r.trust}" for r in reports]
    yield "clean", [_cell(r.clean_accuracy) for r in reports]
    worst = [worst_per_attack(r) for r in reports]
    for name in dict.fromkeys(name for found in worst for name in found):
        yield escape(name), [_cell(found.get(name)) for found in worst]
    yield "[bold]worst case", [f"[bold]{_cell(r.robust_accuracy)}" for r in reports]
    if any("attack_robustness" in r.metrics for r in reports):
        ratios = [r.metrics.get("attack_robustness") for r in reports]
        yield "AR, worst case", ["–" if ratio is None else f"{ratio:.1%}" for ratio in ratios]
    if any(r.corruptions for r in reports):
        yield "corrupted, mean", [_cell(r.mean_corruption_accuracy) for r in reports]
    yield "images", [f"{r.robust_accuracy.num_images:,}" for r in reports]
    yield "attacked in", [f"{r.norm} {r.epsilon:.4g}" for r in reports]
    yield "data", [f"{r.data.get('fingerprint', ''):.12}" for r in reports]
    yield "weights", [f"{r.costs['parameters']:,}" for r in reports]
    yield "size, MB", [f"{r.costs['size_bytes'] / 1e6:.2f}" for r in reports]
    yield "MFLOPs", [f"{r.costs['flops'] / 1e6:.2f}" for r in reports]
    yield (
        "latency, ms",
        ["–" if (s := r.latency_seconds) is None else f"{s * 1000:.2f}" for r in reports],
    )


def _cell(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "–"
    return f"{accuracy.value:.1%} [dim]{accuracy.low * 100:.0f}–{accuracy.high * 100:.0f}[/dim]"
