"""The command line's part about the registry: bartizan compare, promote, rollback, verify."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipelines.usage import FAILED, WORKSPACE, WorkspaceOption, say_and_exit, usage_errors

_Name = Annotated[str, typer.Argument(help="The registered model.")]
_Data = Annotated[Path | None, typer.Option("--data", help="Prepared shards.")]


def compare(
    name: _Name,
    versions: Annotated[
        str, typer.Option(help="Such as 3,7,champion; by default the champion and the newest.")
    ] = "",
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure what cannot be compared; needs --data.")
    ] = False,
    data: _Data = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the comparison for scripts.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of comparison.html.")
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Put versions of a model side by side, and test whether they differ by more than noise."""
    from rich.console import Console

    from components.registry.comparison_page import write_comparison
    from components.registry.entries import measure_missing, read_entries
    from pipelines.display import ShownRun
    from pipelines.versions import show_comparison, write_json

    console, words = Console(), [word.strip() for word in versions.split(",") if word.strip()]
    folder = output or workspace / "comparisons" / name
    with _registry_of(workspace):
        if evaluate and data is None:
            raise ValueError("--evaluate needs --data, the shards to measure on")
        entries = read_entries(name, words)
        if evaluate and data is not None:
            run = ShownRun("evaluate", console)
            entries = measure_missing(entries, data, folder / "evaluations", run)
        page = write_comparison(entries, folder, data)
        if json_file:
            write_json(entries, json_file)
    show_comparison(entries, console)
    console.print(f"Page     {page}", soft_wrap=True, highlight=False)


def promote(
    name: _Name,
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")],
    override: Annotated[
        bool, typer.Option("--override", help="Promote whatever the rules say; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why the rules do not count; kept for ever.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="field=value of the rules it was registered with."),
    ] = None,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Make a version the champion, if the rules allow it."""
    from rich.console import Console

    from components.registry.models import find_version
    from components.registry.promote import promote_version
    from pipelines.settings import override_field
    from pipelines.versions import policy_of, show_rule

    with _registry_of(workspace):
        if override != bool(reason.strip()):
            raise ValueError("--override and --reason belong together: say why")
        chosen = find_version(name, version)
        policy = policy_of(chosen)
        for assignment in settings or ():
            policy = override_field("promotion", policy, assignment)
        verdict = promote_version(policy, chosen, override=reason.strip())
    for rule in verdict.rules:
        show_rule(rule, Console())
    if verdict.promoted or override:
        typer.echo(f"{name} {chosen.number} is the champion now")
    else:
        say_and_exit(f"{name} {chosen.number} was not promoted", FAILED)


def rollback(name: _Name, workspace: WorkspaceOption = WORKSPACE) -> None:
    """Make the champion again who was champion before."""
    from components.registry.champions import roll_back

    with _registry_of(workspace):
        reign = roll_back(name)
    typer.echo(f"{name} {reign.champion} is the champion again")


def verify(
    model: Annotated[str, typer.Argument(help="models:/NAME@alias or models:/NAME/VERSION.")],
    data: Annotated[Path, typer.Option("--data", help="The shards it was measured on.")],
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Check a version's hashes, attack it again as recorded, and compare every image."""
    from rich.console import Console

    from components.registry.verify import verify as verify_version
    from pipelines.display import ShownRun
    from pipelines.versions import parse_address, show_rule

    console, passed = Console(), True
    with _registry_of(workspace):
        for rule in verify_version(parse_address(model), data, ShownRun("verify", console)):
            show_rule(rule, console)
            passed = passed and rule.passed
    if not passed:
        say_and_exit(f"{model} could not be verified", FAILED)
    typer.echo(f"{model} is what was registered, and its numbers were reproduced")


@contextmanager
def _registry_of(workspace: Path) -> Iterator[None]:
    """Speak with the registry of a workspace, or the server that the environment names."""
    from components.registry.champions import RegistryError
    from components.tracking import URI
    from pipelines.workspace import Workspace

    uri = Workspace(workspace).tracking_uri
    with usage_errors():
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
            raise ValueError(f"there is no registry {uri}; 'bartizan run' makes one")
        os.environ[URI] = uri
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            yield
        except RegistryError as error:
            say_and_exit(f"the registry {uri}: {error}", FAILED)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (compare, promote, rollback, verify):
        app.command()(command)
