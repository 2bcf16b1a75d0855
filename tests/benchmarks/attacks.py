# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "bartizan",
#     "adv-lib==0.2.8",
#     "adversarial-robustness-toolbox==1.20.1",
#     "cleverhans==4.0.0",
#     "foolbox==3.3.4",
#     "pyautoattack==0.2.0",  # the official AutoAttack as a package
#     "torchattacks==3.5.1",
# ]
#
# [tool.uv]
# constraint-dependencies = ["torch==2.15.0"]  # the one the project is tested with
# override-dependencies = [
#     "requests>=2.25",  # torchattacks asks for old ones
#     "tqdm>=4.56",
#     "tensorflow-probability; sys_platform == 'never'",  # cleverhans needs none for torch
# ]
# build-constraint-dependencies = ["setuptools<81"]  # visdom, of adv-lib, needs pkg_resources
#
# [tool.uv.sources]
# bartizan = { path = "../..", editable = true }
# ///
"""Compare Bartizan's attacks with five libraries: how much they find, in how much CPU time.

    uv run tests/benchmarks/attacks.py
    uv run tests/benchmarks/attacks.py --only pgd,apgd --repeats 5 --json /tmp/attacks.json

No test: pytest does not collect it. uv makes an environment with the libraries of its own, beside
the project's. All run in one process and one thread, in turns, on the same model, images and
budget; a ratio is taken within a round, and the median over the rounds is shown with the least and
the largest. The first run trains two small networks, for a few minutes, and keeps them.
"""

import json
import tempfile
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import models
import rows
import torch
import typer
from rich.console import Console
from rich.table import Table
from rows import Row
from timing import Timed, floor, interleave
from torch import Tensor, nn

from components.attacks.geometry import distance

FLOOR = "floor"
_TOLERANCE = 0.002  # in robust accuracy, that of AutoAttack's authors
_ROUNDING = 1e-5  # of the radius
_CACHE = Path(tempfile.gettempdir()) / "bartizan-benchmark"
_console = Console(width=120)


@dataclass(frozen=True)
class Result:
    """What one contender reached in one row.

    Attributes:
        found: robust accuracy, or the median size of the smallest perturbation.
        robust: which images withstood it.
        outside: images out of the ball or the box.
        seconds: CPU time of each round.
        to_floor: median, least and largest ratio to the floor.
        to_judge: the same to the peer that counts.
    """

    found: float
    robust: list[bool]
    outside: int
    seconds: list[float]
    to_floor: tuple[float, float, float] | None
    to_judge: tuple[float, float, float] | None


@dataclass(frozen=True)
class Goal:
    """Something aimed at, and whether it is met."""

    row: str
    aim: str
    reached: str
    met: bool


def main(
    only: Annotated[str, typer.Option(help="Attacks and suites by name, with commas.")] = "",
    repeats: Annotated[int, typer.Option(help="Rounds; suites take one.", min=1)] = 3,
    images: Annotated[int, typer.Option(help="Images attacked; slow rows take less.")] = 256,
    quick: Annotated[bool, typer.Option(help="One round of 32 images, to see it work.")] = False,
    mnist: Annotated[Path | None, typer.Option(help="Folder of MNIST's idx files.")] = None,
    cache: Annotated[Path, typer.Option(help="Where trained networks are kept.")] = _CACHE,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all here.")] = None,
) -> None:
    """Compare Bartizan's attacks with those of other libraries."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers'
    repeats, images = (1, 32) if quick else (repeats, images)
    chosen = [row for row in rows.rows() if not only or row.name in only.split(",")]
    if not chosen:
        raise typer.BadParameter(f"no such attack, or not written yet: {only}")
    training, test = models.digits(mnist)
    source = "digits" if mnist is None else "mnist"
    victims: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    for name in sorted({row.model for row in chosen}):
        if name == "resnet18":
            victims[name] = models.cifar_resnet18(min(images, 16))
        else:
            model = models.digit_model(name, training, source, cache)
            victims[name] = (model, test[0][:images], test[1][:images])
    goals, record = [], {}
    for row in chosen:
        results = compare(row, *victims[row.model], rounds=repeats)
        _console.print(table(row, results))
        goals += judge(row, results)
        record[title(row)] = {name: asdict(result) for name, result in results.items()}
    _console.print(summary(goals))
    if json_file is not None:
        facts = {"torch": torch.__version__, "goals": [asdict(goal) for goal in goals]}
        json_file.write_text(json.dumps(facts | {"rows": record}, indent=1), encoding="utf-8")


def title(row: Row) -> str:
    """Name a row."""
    options = "" if row.norm == "linf" else f" {row.norm}"
    return f"{row.name}{options}, {row.model}"


def compare(
    row: Row, model: nn.Module, images: Tensor, labels: Tensor, *, rounds: int
) -> dict[str, Result]:
    """Time everybody on one row and look at what they found."""
    images, labels = images[: row.images], labels[: row.images]
    attacks = row.ours | row.peers
    if row.units:
        attacks = {FLOOR: partial(floor, units=row.units)} | attacks
    contenders = {name: partial(attack, model, images, labels) for name, attack in attacks.items()}
    floor(model, images, labels, 1)  # the first pass ever is slow
    with _console.status(title(row)) as status:
        timed = interleave(
            contenders,
            min(rounds, row.rounds),
            lambda name: status.update(f"{title(row)}: {name}"),
        )
    model.zero_grad()  # some peers leave gradients behind
    found = {name: _finding(row, model, images, labels, time) for name, time in timed.items()}
    rival = _judge_of(row, timed, found)
    return {
        name: Result(
            *found[name],
            timed[name].seconds,
            timed[name].over(timed[FLOOR]) if FLOOR in timed else None,
            timed[name].over(timed[rival]) if rival else None,
        )
        for name in timed
    }


def _judge_of(
    row: Row, timed: dict[str, Timed], found: dict[str, tuple[float, list[bool], int]]
) -> str | None:
    """Name the peer to be compared with; one that finds next to nothing is no measure of speed."""
    if row.judge or not row.peers:
        return row.judge
    best = min(found[name][0] for name in row.peers)
    worst = 2 * best if row.epsilon is None else best + 0.1
    equals = [name for name in row.peers if found[name][0] <= worst]
    return min(equals, key=lambda name: timed[name].median)


@torch.no_grad()
def _finding(
    row: Row, model: nn.Module, images: Tensor, labels: Tensor, timed: Timed
) -> tuple[float, list[bool], int]:
    """Judge adversarial images by the model itself: see Result for what is given."""
    adversarial = timed.outcome
    robust = model(adversarial).argmax(1) == labels
    sizes = distance(adversarial - images, row.norm)
    outside = ((adversarial < 0) | (adversarial > 1)).flatten(1).any(1)
    if row.epsilon is None:
        found = float(torch.where(robust, torch.inf, sizes).median())
    else:
        found = float(robust.float().mean())
        outside |= sizes > row.epsilon * (1 + _ROUNDING)
    return found, robust.tolist(), int(outside.sum())


def table(row: Row, results: dict[str, Result]) -> Table:
    """Lay out a row's results."""
    drawn = Table(title=title(row), title_justify="left", min_width=100)
    drawn.add_column("")
    found = "median distance" if row.epsilon is None else "robust accuracy"
    for column in (found, "CPU s", "of floor", f"of {row.judge or 'fastest peer'}", ""):
        drawn.add_column(column, justify="right")
    for name, result in results.items():
        drawn.add_row(
            name,
            "" if name == FLOOR else _found(row, result.found),
            f"{sorted(result.seconds)[len(result.seconds) // 2]:.2f}",
            _spread(result.to_floor),
            _spread(result.to_judge),
            f"{result.outside} outside" if result.outside else "",
            style="bold" if name in row.ours else None,
        )
    return drawn


def judge(row: Row, results: dict[str, Result]) -> list[Goal]:
    """Hold ours against the goals: time, and nothing overlooked to get there."""
    first, goals = next(iter(row.ours)), []
    own = results[first]
    if row.floor_goal is not None and own.to_floor:
        aim = f"at most {row.floor_goal:.2f} of the floor"
        met = own.to_floor[0] <= row.floor_goal
        goals.append(Goal(f"{title(row)}: {first}", aim, _spread(own.to_floor), met))
    for name, limit in row.peer_goals.items():
        ratio = results[name].to_judge
        if ratio:
            aim = f"at most {limit:.2f} of {row.judge or 'the fastest peer'}"
            goals.append(Goal(f"{title(row)}: {name}", aim, _spread(ratio), ratio[0] <= limit))
    if row.peers:
        goals.append(_strength(row, first, results))
    return goals


def _strength(row: Row, name: str, results: dict[str, Result]) -> Goal:
    own, label = results[name], f"{title(row)}: {name}"
    if row.judge is not None:
        theirs = results[row.judge]
        missed = sum(mine > its for mine, its in zip(own.robust, theirs.robust, strict=True))
        more = sum(mine < its for mine, its in zip(own.robust, theirs.robust, strict=True))
        share = missed / len(own.robust)
        reached = f"{missed} missed, {more} more"
        return Goal(label, f"verdicts of {row.judge}", reached, share <= _TOLERANCE)
    best = min(results[peer].found for peer in row.peers if not results[peer].outside)
    slack = 1e-4 * best if row.epsilon is None else _TOLERANCE
    aim = "distance" if row.epsilon is None else "robust accuracy"
    return Goal(
        label,
        f"{aim} at most {_found(row, best)}",
        _found(row, own.found),
        own.found <= best + slack,
    )


def summary(goals: list[Goal]) -> Table:
    """List the goals."""
    drawn = Table(title="Goals", title_justify="left", min_width=100)
    for column in ("", "aim", "reached", ""):
        drawn.add_column(column)
    for goal in goals:
        drawn.add_row(goal.row, goal.aim, goal.reached, "met" if goal.met else "[red]missed[/red]")
    return drawn


def _found(row: Row, value: float) -> str:
    return f"{value:.4f}" if row.epsilon is None else f"{100 * value:.1f} %"


def _spread(ratio: tuple[float, float, float] | None) -> str:
    if ratio is None:
        return ""
    median, least, most = ratio
    return f"{median:.3f}" if least == most else f"{median:.3f} ({least:.3f} to {most:.3f})"


if __name__ == "__main__":
    typer.run(main)
