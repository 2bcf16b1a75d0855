"""What commands share: their options, and what a caller got wrong, in a line and a code."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.core import TyperGroup

from components.secrecy import hide_secrets, refuse_passwords

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

WORKSPACE = Path(".bartizan")
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", help="Folder of local runs and their tracking store.")
]
PipelineArgument = Annotated[
    str, typer.Argument(help="Which one; the recipe's if left out. 'bartizan list' names them.")
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", help="A recipe by name, or a .py file that sets RECIPE.")
]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value; repeat it for more.")
]
FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what the caller got wrong into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        say_and_exit(str(error), WRONG_USAGE)


def say_and_exit(message: str, code: int) -> NoReturn:
    """End the command with a line on the error stream."""
    typer.echo(f"bartizan: {hide_secrets(message)}", err=True)
    raise typer.Exit(code)


class Commands(TyperGroup):
    """Commands that take no password: other users, logs and the shell's history see their words."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Look at all words before anything shows or keeps one."""
        with usage_errors():
            for word in args:
                refuse_passwords("the command line", word)
        return super().parse_args(ctx, args)


def load_settings(recipe: str, settings: Sequence[str] | None) -> "Recipe":
    """Give a recipe with the settings of the command line, checked.

    Raises:
        ValueError: the recipe, a setting or a value is wrong.
    """
    from pipelines.settings import check_choices, load_recipe, override

    chosen = load_recipe(recipe)
    for assignment in settings or ():
        chosen = override(chosen, assignment)
    check_choices(chosen)
    return chosen
