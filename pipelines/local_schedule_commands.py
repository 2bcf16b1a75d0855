"""The command line's part about schedules of this machine: bartizan schedule retrain, list, ...."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines import PIPELINES
from pipelines.usage import (
    INTERRUPTED,
    WORKSPACE,
    SettingsOption,
    WorkspaceOption,
    load_settings,
    say_and_exit,
    usage_errors,
)

_Name = Annotated[str, typer.Argument(help="Which one; 'bartizan schedule list' names them.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands; each pipeline is one."""
    for pipeline, what in PIPELINES.items():
        app.command(pipeline, help=f"Here, by the clock: {what}.")(_scheduling(pipeline))
    for command in (pause, resume, remove, serve):
        app.command()(command)
    app.command("list")(list_all)


def _scheduling(pipeline: str) -> Callable[..., None]:
    def schedule(
        cron: Annotated[
            str, typer.Option(help="Minute, hour, day, month, weekday: '0 3 * * *' is 03:00 daily.")
        ],
        recipe: Annotated[
            str, typer.Option(help="A recipe by name, or a .py file; the pipeline's first if none.")
        ] = "",
        settings: SettingsOption = None,
        name: Annotated[str, typer.Option(help="Of the schedule; the recipe's by default.")] = "",
        missed: Annotated[
            str,
            typer.Option(help="once makes up for missed times by one run, skip does not."),
        ] = "once",
        timezone: Annotated[
            str, typer.Option(help="Whose clock, such as Europe/Berlin; by default this machine's.")
        ] = "",
        workspace: WorkspaceOption = WORKSPACE,
    ) -> None:
        from pipelines.compile import find_pipeline
        from pipelines.cron import Cron, local_zone
        from pipelines.local_schedule import Schedule, add
        from pipelines.recipes import RECIPES
        from pipelines.workspace import Workspace

        with usage_errors():
            recipe = recipe or next(n for n, r in RECIPES.items() if r.pipeline == pipeline)
            words = ["run", pipeline, "--recipe", recipe, "--wait"]
            words += ["--workspace", str(workspace.resolve())]
            words += [word for setting in settings or () for word in ("--set", setting)]
            made = Schedule(
                name=name or Path(recipe).stem,
                cron=Cron(cron, timezone or local_zone()),
                missed=missed,
                words=tuple(words),
                folder=str(Path.cwd()),
            )
            find_pipeline(pipeline, load_settings(recipe, settings))
            add(Workspace(workspace), made)
        first = _tell(made.cron.next_time(time.time()))
        typer.echo(f"{made.name}: first at {first}, while 'bartizan schedule serve' goes on")

    return schedule


def list_all(workspace: WorkspaceOption = WORKSPACE) -> None:
    """Name the schedules of this machine, their next time, and what became of the last."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from pipelines.local_schedule import list_schedules
    from pipelines.workspace import Workspace

    place = Workspace(workspace)
    with usage_errors():
        found = list_schedules(place)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title in ("schedule", "cron", "next", "last", "outcome"):
        table.add_column(title)
    for schedule, last in found:
        cron = schedule.cron
        coming = "paused" if schedule.paused else _tell(cron.next_time(time.time()))
        past = (_tell(cron.when(last.due)), last.state) if last else ("", "")
        table.add_row(schedule.name, cron.text, coming, *past)
    console = Console()
    console.print(table)
    for last in (last for _, last in found if last and last.state in ("failed", "died")):
        console.print(f"{last.schedule} {last.state}: {last.log(place)}", soft_wrap=True)


def pause(name: _Name, workspace: WorkspaceOption = WORKSPACE) -> None:
    """Let a schedule's times pass without a run."""
    from pipelines import local_schedule
    from pipelines.workspace import Workspace

    with usage_errors():
        local_schedule.pause(Workspace(workspace), name)


def resume(name: _Name, workspace: WorkspaceOption = WORKSPACE) -> None:
    """Let a paused schedule's times count again, from now on."""
    from pipelines import local_schedule
    from pipelines.workspace import Workspace

    with usage_errors():
        local_schedule.resume(Workspace(workspace), name)


def remove(name: _Name, workspace: WorkspaceOption = WORKSPACE) -> None:
    """Forget a schedule; its logs stay."""
    from pipelines import local_schedule
    from pipelines.workspace import Workspace

    with usage_errors():
        local_schedule.remove(Workspace(workspace), name)


def serve(workspace: WorkspaceOption = WORKSPACE) -> None:
    """Start what is due, until Ctrl-C; runs that go on then are not ended."""
    from pipelines import schedule_server
    from pipelines.workspace import Workspace

    def say(text: str) -> None:
        typer.echo(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}")

    with usage_errors():
        try:
            schedule_server.serve(Workspace(workspace), say)
        except KeyboardInterrupt:
            say_and_exit("no longer served; runs that have begun go on", INTERRUPTED)


def _tell(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M %Z}"
