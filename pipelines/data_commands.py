"""The command line's part about data: bartizan data augmentations."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at data and at what is done to it.", no_args_is_help=True)
_WRONG_USAGE = 2


@app.callback()
def data() -> None:
    """Look at data and at what is done to it."""


@app.command()
def augmentations(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The sheet, a picture such as sheet.png.")
    ],
    image: Annotated[
        Path | None, typer.Option(help="A picture to show them on; one is drawn by default.")
    ] = None,
    operations: Annotated[
        str, typer.Option(help="Only these, by name, with commas; all by default.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of all that is drawn at random.", min=0)] = 0,
) -> None:
    """Draw what every operation does to a picture, at each severity, into one sheet."""
    from PIL import Image

    from components.augmentations.operations import OPERATIONS
    from components.config import unknown
    from pipelines.contact_sheet import draw_contact_sheet, draw_landscape, read_picture

    names = [name.strip() for name in operations.split(",") if name.strip()]
    try:
        for name in names:
            if name not in OPERATIONS:
                raise ValueError(unknown("operation", name, OPERATIONS))
        if output.suffix.lower() not in Image.registered_extensions():
            raise ValueError(f"the sheet must be a picture such as sheet.png, got {output}")
        picture = read_picture(image) if image else draw_landscape()
        chosen = {name: OPERATIONS[name] for name in names or OPERATIONS}
        draw_contact_sheet(picture, chosen, seed=seed).save(output)
    except (ValueError, OSError) as error:
        typer.echo(f"bartizan: {error}", err=True)
        raise typer.Exit(_WRONG_USAGE) from error
    typer.echo(f"{output} written")
