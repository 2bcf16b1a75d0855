"""The command line: bartizan run, evaluate, compare, submit, schedule and the rest.

torch, kfp and mlflow take seconds to load, so only the command that needs one imports it.
"""

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from components.secrecy import hide_tracking_password
from pipelines import (
    cluster_commands,
    data_commands,
    export_command,
    registry_commands,
    schedule_commands,
)
from pipelines.doctor import doctor
from pipelines.usage import (
    FAILED,
    INTERRUPTED,
    WORKSPACE,
    WRONG_USAGE,
    Commands,
    PipelineArgument,
    RecipeOption,
    SettingsOption,
    WorkspaceOption,
    load_settings,
    say_and_exit,
    usage_errors,
)

app = typer.Typer(
    cls=Commands,
    help="Train image classifiers that withstand attack, and believe only honest numbers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help loads in half the time
)


@app.command("list")
def list_all() -> None:
    """Name the pipelines, the recipes and the suites of attacks."""
    from components.evaluation.suites import SUITES, describe
    from pipelines import PIPELINES
    from pipelines.recipes import RECIPES

    recipes = {name: f"{r.about} ({r.pipeline})" for name, r in RECIPES.items()}
    suites = {name: describe(name) for name in SUITES}
    for title, captions in (("Pipelines", PIPELINES), ("Recipes", recipes), ("Suites", suites)):
        typer.echo(title)
        for name, caption in captions.items():
            typer.echo(f"  {name:<18} {caption}")


@app.command()
def run(
    pipeline: PipelineArgument = "",
    recipe: RecipeOption = "digits",
    settings: SettingsOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="For a run that is going on here.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Run a pipeline on this machine, without any server."""
    from rich.console import Console

    from pipelines.compile import compile_pipeline, find_pipeline
    from pipelines.display import show_events
    from pipelines.graph import read_steps
    from pipelines.local import RunFailed, run_locally
    from pipelines.summary import show_summary
    from pipelines.workspace import Workspace

    console, place = Console(), Workspace(workspace)
    with ExitStack() as stack:
        with usage_errors():
            lock = stack.enter_context(place.occupy(wait=wait))
            chosen = load_settings(recipe, settings)
            pipeline = pipeline or chosen.pipeline
            find_pipeline(pipeline, chosen)
            folder = place.new_run()
            compile_pipeline(pipeline, chosen, folder.pipeline)
        steps = read_steps(folder.pipeline)
        console.print(f"run {folder.run_id}, log in {folder.log}", soft_wrap=True, highlight=False)
        try:
            events = run_locally(pipeline, folder, place, lock.fileno())
            show_events(stack.enter_context(closing(events)), len(steps), console)
        except RunFailed as error:
            say_and_exit(str(error), FAILED)
        except KeyboardInterrupt:
            say_and_exit(f"run {folder.run_id} was stopped", INTERRUPTED)
    show_summary(folder, steps, console)
    hint = "" if workspace == WORKSPACE else f" --workspace {workspace}"
    console.print(f"Compare  bartizan ui{hint}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, models:/name@alias or file.py:function.")
    ],
    data: Annotated[
        Path, typer.Option(help="Prepared shards, or a folder with one folder of images per class.")
    ],
    epsilon: Annotated[str, typer.Option(help="Radius of the ball in pixel units.")] = "8/255",
    norm: Annotated[str, typer.Option(help="linf, l2 or l1.")] = "linf",
    suite: Annotated[
        list[str] | None,
        typer.Option(help="A suite or an attack; repeat it for more. Default: standard."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the report.")
    ] = None,
    num_images: Annotated[int, typer.Option(help="Only the first so many; 0 takes all.")] = 0,
    thorough: Annotated[bool, typer.Option(help="Also run the checks that cost much.")] = False,
    budget: Annotated[float, typer.Option(help="Seconds after which attacks stop.")] = 0.0,
    surrogate: Annotated[
        list[str] | None, typer.Option(help="Another model, whose adversarial images are tried.")
    ] = None,
    grey: Annotated[bool, typer.Option(help="Read a folder's images with one channel.")] = False,
    image_size: Annotated[int, typer.Option(help="Resize a folder's images to this side.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the evaluation's settings.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 unless the number is trusted.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Attack any model and say how much it withstands, and whether to believe it."""
    from rich.console import Console

    from pipelines.robustness import read_settings, run_evaluation, show_report
    from pipelines.workspace import Workspace

    console = Console()
    with usage_errors():
        chosen = read_settings(
            epsilon=epsilon,
            norm=norm,
            suite=suite or ["standard"],
            overrides=settings or [],
            num_images=num_images,
            thorough=thorough,
            budget_seconds=budget,
        )
        try:
            measured, folder = run_evaluation(
                model,
                chosen,
                data=data,
                output=output,
                workspace=workspace,
                tracking_uri=Workspace(workspace).tracking_uri,
                surrogates=surrogate or [],
                images={"grey": grey, "image_size": image_size},
                console=console,
            )
        except KeyboardInterrupt:
            say_and_exit("stopped; the same command goes on where it was", INTERRUPTED)
    show_report(measured, folder, console)
    if strict and measured.trust != "trusted":
        say_and_exit(f"the number is {measured.trust}, not trusted", FAILED)


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(help="Which run; the last one by default.")] = "",
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Show a finished run's table and verdict again."""
    from rich.console import Console

    from pipelines.graph import read_steps
    from pipelines.summary import show_summary
    from pipelines.workspace import Workspace

    with usage_errors():
        folder = Workspace(workspace).find_run(run_id)
        show_summary(folder, read_steps(folder.pipeline), Console())


@app.command()
def ui(
    workspace: WorkspaceOption = WORKSPACE,
    port: Annotated[int, typer.Option(help="Where the page is served on this machine.")] = 5000,
) -> None:
    """Open MLflow's page on the runs and models of a workspace."""
    from pipelines.workspace import Workspace

    place = Workspace(workspace)
    if not place.root.is_dir():
        say_and_exit(f"there is no workspace {workspace}; 'bartizan run' makes one", WRONG_USAGE)
    if place.tracking_uri.startswith("http"):
        typer.echo(f"runs and models are on the server {place.tracking_uri}")
        return
    typer.echo(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port)]
    # Not a word of the command, which other users of the machine see, passwords and all.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = place.tracking_uri
    os.execv(sys.executable, command)


# Help lists commands in this order: a run and what comes of it first.
registry_commands.add_to(app)
app.command()(export_command.export)
app.command()(cluster_commands.submit)
app.command("compile")(cluster_commands.compile_)
app.command()(doctor)
app.add_typer(schedule_commands.app, name="schedule")
app.add_typer(data_commands.app, name="data")


def main() -> None:
    """Run the command line."""
    hide_tracking_password()
    app()


if __name__ == "__main__":
    main()
