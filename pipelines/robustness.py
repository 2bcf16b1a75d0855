"""bartizan evaluate: one model attacked on this machine, with a bar, a table and the reasons."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate_candidate
from components.evaluation.report import PAGE, Accuracy, RobustnessReport
from pipelines.display import ShownRun
from pipelines.settings import override_field, parse_value
from pipelines.summary import TRUST_COLOURS
from pipelines.targets import load_candidate, load_dataset

_VERDICTS = {"fail": "[red]✗ failed[/red]", "warn": "[yellow]! warning[/yellow]"}


def read_settings(
    *, epsilon: str, norm: str, suite: Sequence[str], overrides: Sequence[str], **fields: Any
) -> EvaluationConfig:
    """Make checked settings from the words of a command line.

    Raises:
        ValueError: a word or a value is wrong.
    """
    words = tuple(parse_value(word) for word in suite)
    alone = "paper" in words  # whose columns stand for themselves
    settings = EvaluationConfig(
        epsilon=parse_value(epsilon),
        norm=norm,
        suite=words,
        survivors_only=not alone,
        **fields,
    )
    for assignment in overrides:
        settings = override_field("evaluation", settings, assignment)
    return settings


def run_evaluation(
    target: str,
    settings: EvaluationConfig,
    *,
    data: Path,
    output: Path | None,
    workspace: Path,
    tracking_uri: str,
    surrogates: Sequence[str],
    images: Mapping[str, Any],
    console: Console,
) -> tuple[RobustnessReport, Path]:
    """Load model and images, attack, write the report and show it.

    Args:
        target: the model, as `load_candidate` takes it.
        settings: threat model and attacks.
        data: shards or a folder per class.
        output: folder of the report; None takes one in the workspace that the target names.
        workspace: of local runs.
        tracking_uri: of the model registry.
        surrogates: further models whose adversarial images are tried on this one.
        images: ``grey`` and ``image_size`` for a folder per class.
        console: where to print.

    Raises:
        ValueError: a model or the images cannot be loaded, or do not fit together.
    """
    candidate = load_candidate(target, tracking_uri)
    dataset = load_dataset(data, num_images=settings.num_images, **images)
    others: dict[str, nn.Module] = {
        _slug(word): load_candidate(word, tracking_uri).model for word in surrogates
    }
    folder = output or workspace / "evaluations" / _slug(
        f"{target} {data} {settings.norm} {settings.epsilon:g}"
    )
    report = evaluate_candidate(
        candidate,
        dataset,
        settings,
        target=folder,
        surrogates=others,
        run=ShownRun("evaluate", console),
    )
    return report, folder


def show_report(report: RobustnessReport, folder: Path, console: Console) -> None:
    """Print doubts first, then the numbers, the verdict and where the page lies."""
    raised = [check for check in report.checks if check.verdict != "pass"]
    for check in sorted(raised, key=lambda check: check.verdict):
        console.print(
            f"{_VERDICTS[check.verdict]} [bold]{check.id}[/bold] {escape(check.title)}: "
            f"{check.value:.3g} (threshold {check.threshold:.3g})"
        )
        console.print(f"    {escape(check.remedy)}", style="dim")
    console.print(_table(report))
    colour = TRUST_COLOURS[report.trust]
    console.print(f"{escape(str(report))[: -len(report.trust)]}[{colour}]{report.trust}[/{colour}]")
    console.print(f"Report   {folder / PAGE}", soft_wrap=True, highlight=False)


def _table(report: RobustnessReport) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name, justify in (
        ("attack", "left"),
        ("view", "left"),
        ("still right", "right"),
        ("AR", "right"),
        ("tried on", "right"),
        ("time", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    clean = report.clean_accuracy
    table.add_row("none", "", _cell(clean), "", f"{clean.num_images:,}", "")
    for attack in report.attacks:
        left_out = f"\n[yellow]{attack.left_out:,} left out" if attack.left_out else ""
        table.add_row(
            escape(attack.name),
            attack.view.replace("_", " "),
            _cell(attack.robust_accuracy),
            _attack_robustness(attack.robust_accuracy, clean),
            f"{attack.attacked:,}{left_out}",
            f"{attack.seconds:.1f} s",
        )
    naive, robust = report.naive_robust_accuracy, report.robust_accuracy
    table.add_section()
    table.add_row("worst case", "as is", _cell(naive), _attack_robustness(naive, clean))
    table.add_row("[bold]worst case", "all", _cell(robust), _attack_robustness(robust, clean))
    return table


def _attack_robustness(robust: Accuracy, clean: Accuracy) -> str:
    return f"{robust.value / clean.value:.1%}" if clean.value else "–"


def _cell(accuracy: Accuracy) -> str:
    return f"{accuracy.value:.2%} [dim]{accuracy.low * 100:.1f}–{accuracy.high * 100:.1f}"


def _slug(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-")
