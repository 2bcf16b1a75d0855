"""A reproduction as a table for the terminal: ours, and below it the published number."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from components.study.published import COLUMNS
from components.study.reproduction import ModeRow, Reproduction

_HEADERS = ("clean", "white\nbox", "black\nbox", "vuln.\nwhite", "vuln.\nblack", "mem.\n%")
_MORE_HEADERS = ("FLOPs\n×", "spar-\nsity")


def reproduction_table(found: Reproduction, colours: dict[str, str]) -> Table:
    """Give the table.

    Args:
        found: what was measured.
        colours: of the honest number by its trust.
    """
    seeds = "one seed" if found.seeds == 1 else f"mean ± deviation of {found.seeds} seeds"
    table = Table(
        title=f"ANP-VS: ours, {seeds}, above the published numbers for {found.table}",
        caption=f"honest: right under every attack ({', '.join(found.attacks)}; {found.norm} "
        f"{found.epsilon:g}; n = {found.num_images}), with its 95 % interval; "
        + ", ".join(f"[{colour}]{trust}[/]" for trust, colour in colours.items()),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("mode", min_width=8)
    for header in (*_HEADERS, *_MORE_HEADERS, "honest"):
        table.add_column(header, justify="right")
    for row in found.rows:
        mean, deviation = row.robust.mean, row.robust.deviation
        spread = "" if deviation is None else f"±{100 * deviation:.1f}\n"
        table.add_row(
            row.title,
            *(_cell(name, row) for name in COLUMNS),
            f"[{colours[row.trust]}]{100 * mean.value:.1f}[/]\n"
            f"{spread}[dim]{mean.low * 100:.0f}–{mean.high * 100:.0f}",
        )
    return table


def _cell(name: str, row: ModeRow) -> str:
    """Give our mean, our deviation and the published number, each on a line; 80 columns are few."""
    decimals = {"white_box_vulnerability": 3, "black_box_vulnerability": 3, "flops_ratio": 2}
    digits, ours = decimals.get(name, 1), row.ours[name]
    lines = [f"{ours.mean:.{digits}f}"]
    if ours.deviation is not None:
        lines.append(f"±{ours.deviation:.{digits}f}")
    published = "–" if row.published is None else f"{row.published[COLUMNS.index(name)]:.{digits}f}"
    return "\n".join([*lines, f"[dim]{published}"])
