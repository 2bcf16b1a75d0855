"""What a finished run shows: a row per stage, the verdict, and where to look next."""

import shutil
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.evaluation.report import PAGE, REPORT, Accuracy, RobustnessReport, load_report
from components.registry.renewal import RENEWAL, load_renewal
from components.registry.verdict import VERDICT, Verdict, load_verdict
from components.study.reproduction import REPRODUCTION, load_reproduction
from components.study.reproduction_page import PAGE as REPRODUCTION_PAGE
from components.study.tabulate import PAGE as TABLE_PAGE
from components.study.tabulate import TABLE, Repeated, load_table, tell_gain
from components.study.tabulate import Table as Study
from pipelines.reproduction_table import reproduction_table
from pipelines.workspace import RunFolder

_SHOWN_ATTACKS = 3  # as many as fit 80 columns; the page shows them all
TRUST_COLOURS = {"trusted": "green", "doubtful": "yellow", "masked": "red"}


def show_summary(folder: RunFolder, stages: Sequence[str], console: Console) -> None:
    """Print the table, the verdict and where the page lies.

    Args:
        folder: of a finished run.
        stages: names of the steps in the order in which their models come to be.
        console: where to print.

    Raises:
        ValueError: the run has left no report, and no reason for that.
    """
    found = [(load_report(path)[0], path) for path in folder.folders_with(REPORT)]
    renewals = [load_renewal(path) for path in folder.folders_with(RENEWAL)]
    for renewal in renewals:
        console.print(str(renewal), highlight=False, markup=False, soft_wrap=True)
    if not found and renewals:
        return
    if not found:
        raise ValueError(f"the run {folder.run_id} has left no report; see {folder.log}")
    for path in folder.folders_with(REPRODUCTION):
        console.print(reproduction_table(load_reproduction(path), TRUST_COLOURS))
        page = shutil.copyfile(path / REPRODUCTION_PAGE, folder.path / REPRODUCTION_PAGE)
        console.print(f"\nTable    {page}", soft_wrap=True)
        return
    for path in folder.folders_with(TABLE):
        console.print(_study(load_table(path)))
        page = shutil.copyfile(path / TABLE_PAGE, folder.path / TABLE_PAGE)
        console.print(f"\nTable    {page}", soft_wrap=True)
        return
    # A model that no stage of this run has made was there before them.
    found.sort(key=lambda pair: stages.index(pair[0].title) if pair[0].title in stages else -1)
    console.print(_table([report for report, _ in found]))
    for path in folder.folders_with(VERDICT):
        _show_verdict(load_verdict(path), console)
    # The last stage's page, where it is found at once.
    page = shutil.copyfile(found[-1][1] / PAGE, folder.path / PAGE)
    console.print(f"\nReport   {page}", soft_wrap=True)


def _table(reports: Sequence[RobustnessReport]) -> Table:
    first = reports[0]
    table = Table(
        title=f"Test accuracy under {first.norm} attacks of radius {first.epsilon:g}",
        caption=f"n = {first.clean_accuracy.num_images} images, with 95 % intervals; "
        "worst case: right under every attack, also through the honest view of a defence",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    names = list(dict.fromkeys(attack.name for attack in first.attacks))[:_SHOWN_ATTACKS]
    table.add_column("stage", min_width=11)
    for name in ("clean", *names, "worst-case", "weights", "MFLOPs", "trust"):
        table.add_column(_header(name), justify="right")
    for report in reports:
        table.add_row(
            _stage(report.title),
            _cell(report.clean_accuracy),
            *(_cell(_under(report, name)) for name in names),
            f"[bold]{_cell(report.robust_accuracy)}",
            f"{report.costs['parameters']:,}",
            f"{report.costs['flops'] / 1e6:.2f}",
            f"[{TRUST_COLOURS[report.trust]}]{report.trust}",
        )
    return table


def _study(study: Study) -> Table:
    table = Table(
        title=f"Test accuracy under {study.norm} attacks of radius {study.epsilon:g}, in percent",
        caption=f"n = {study.num_images} images; mean ± standard deviation over "
        f"{len(study.rows[0].seeds)} seeds; below, the 95 % interval of so many images",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("training", min_width=11)
    for name in ("clean", "naive", "honest", "against\nthe first", "trust"):
        table.add_column(name, justify="right")
    for row in study.rows:
        table.add_row(
            row.arm.replace("_", " "),
            *(_repeated(accuracy) for accuracy in (row.clean, row.naive, row.robust)),
            "" if row is study.rows[0] else tell_gain(row),
            f"[{TRUST_COLOURS[row.trust]}]{row.trust}",
        )
    return table


def _repeated(accuracy: Repeated) -> str:
    return f"{accuracy}\n[dim]{accuracy.mean.low * 100:.1f}–{accuracy.mean.high * 100:.1f}"


def _header(name: str) -> str:
    """Break a long name before its last word: the table has to fit 80 columns."""
    return "\n".join(name.rsplit("-", 1)) if len(name) > 8 else name


def _stage(title: str) -> str:
    """Let the name of a step be broken between its words; an address is told as it is."""
    return title if "/" in title else title.replace("-", " ")


def _under(report: RobustnessReport, name: str) -> Accuracy:
    """Give the accuracy under an attack through the view in which it is stronger."""
    found = [attack.robust_accuracy for attack in report.attacks if attack.name == name]
    return min(found, key=lambda accuracy: accuracy.value)


def _cell(accuracy: Accuracy) -> str:
    return f"{accuracy.value:.1%}\n[dim]{accuracy.low * 100:.0f}–{accuracy.high * 100:.0f}"


def _show_verdict(verdict: Verdict, console: Console) -> None:
    decision = "becomes the champion" if verdict.promoted else "does not become the champion"
    console.print(f"\n[bold]Verdict[/bold]  the challenger {decision}")
    for rule in verdict.rules:
        mark = "[green]✓[/green]" if rule.passed else "[red]✗[/red]"
        console.print(f"  {mark} {escape(rule.reason)}", highlight=False)
