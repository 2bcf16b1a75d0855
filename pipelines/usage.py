"""What the caller got wrong, in one line and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

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
