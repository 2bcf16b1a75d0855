"""What commands share: where runs live, and what a caller got wrong, in a line and a code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

WORKSPACE = Path(".bartizan")
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", help="Folder of local runs and their tracking store.")
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
    typer.echo(f"bartizan: {message}", err=True)
    raise typer.Exit(code)
