"""Print which hidden weaknesses an evaluation finds out, and that it clears who hides nothing."""

import io
import sys
from contextlib import redirect_stdout

import torch
from rich.console import Console
from rich.table import Table

from tests.evaluation.zoo import EXHIBITS, examine


def main() -> int:
    """Examine every exhibit and print a row for each; 1 if any ruling is wrong."""
    torch.set_num_threads(1)  # the models are small
    console = Console(file=sys.stdout)
    table = Table(
        "model", "clean", "naive", "honest", "at most", "trust", "ruling", "alarms", title="Trust"
    )
    wrong = 0
    for exhibit in EXHIBITS:
        console.print(exhibit.name, end=" ")
        with redirect_stdout(io.StringIO()):  # progress of every single one
            ruling = examine(exhibit, suite=("fast",), thorough="--thorough" in sys.argv)
        report = ruling.report
        wrong += not ruling.right
        table.add_row(
            exhibit.name,
            f"{report.clean_accuracy.value:.1%}",
            f"{report.naive_robust_accuracy.value:.1%}",
            f"{report.robust_accuracy.value:.1%}",
            "" if exhibit.reference is None else f"{exhibit.reference:.1%}",
            report.trust,
            ruling.found if ruling.right else f"[red]{ruling.found}: wrong[/red]",
            " ".join(ruling.alarms),
        )
    console.print()
    console.print(table)
    honest = sum(exhibit.honest for exhibit in EXHIBITS)
    console.print(
        f"{len(EXHIBITS) - honest} models that hide, {honest} that do not, {wrong} rulings wrong"
    )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
