"""The command line's part about data: bartizan data prepare, augmentations, submission."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.usage import WORKSPACE, WorkspaceOption, usage_errors

app = typer.Typer(help="Look at data and at what is done to it.", no_args_is_help=True)


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
    with usage_errors():
        for name in names:
            if name not in OPERATIONS:
                raise ValueError(unknown("operation", name, OPERATIONS))
        if output.suffix.lower() not in Image.registered_extensions():
            raise ValueError(f"the sheet must be a picture such as sheet.png, got {output}")
        picture = read_picture(image) if image else draw_landscape()
        chosen = {name: OPERATIONS[name] for name in names or OPERATIONS}
        draw_contact_sheet(picture, chosen, seed=seed).save(output)
    typer.echo(f"{output} written")


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="A source by name, such as mnist or folder.")],
    root: Annotated[str, typer.Argument(help="Where it is: a folder or s3://bucket/prefix.")] = "",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the shards and their data card.")
    ] = Path("shards"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of DataConfig, such as image_size=32."),
    ] = None,
) -> None:
    """Turn a source into shards, as the step prepare-data does."""
    from rich.console import Console

    from components.data.config import DataConfig
    from components.data.placing import CARD
    from pipelines.display import ShownRun
    from pipelines.settings import override_field

    with usage_errors():
        chosen = DataConfig(source={"name": source} | ({"root": root} if root else {}))
        for assignment in settings or ():
            chosen = override_field("data", chosen, assignment)
        from components.data.prepare import prepare as prepare_shards

        figures = prepare_shards(chosen, output, ShownRun("prepare", Console()))
    for name, value in figures.items():
        typer.echo(f"{name.replace('_', ' '):<20} {value:,.0f}")
    typer.echo(f"Data card   {output / CARD}")


@app.command()
def submission(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, models:/name@alias or file.py:function.")
    ],
    folder: Annotated[
        Path, typer.Argument(help="Images with numbers for names: 0.png, 1.png, ...")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The list of predictions.")] = Path(
        "submission.json"
    ),
    image_size: Annotated[int, typer.Option(help="Side the model takes, if it does not say.")] = 0,
    shorter_side: Annotated[
        int, typer.Option(help="Scale the shorter side to this and cut out the middle.")
    ] = 0,
    grey: Annotated[bool, typer.Option(help="The model takes one channel.")] = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Classify a flat folder of images into the JSON list that the challenge takes."""
    from rich.console import Console

    from pipelines.display import ShownRun
    from pipelines.submission import predict_folder, shaping_for, write_submission
    from pipelines.targets import load_candidate
    from pipelines.workspace import Workspace

    with usage_errors():
        candidate = load_candidate(model, Workspace(workspace).tracking_uri)
        shaping = shaping_for(
            candidate, image_size=image_size, shorter_side=shorter_side, grey=grey
        )
        predictions = predict_folder(candidate, folder, shaping, ShownRun("predict", Console()))
        write_submission(predictions, output)
    typer.echo(f"{len(predictions):,} predictions in {output}")
