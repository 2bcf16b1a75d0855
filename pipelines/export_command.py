"""The command bartizan export: a model as one file that runs without this code."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.usage import FAILED, WORKSPACE, WorkspaceOption, say_and_exit, usage_errors


def export(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, models:/name@alias or file.py:function.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file: NAME.onnx, NAME.pt2 or NAME.pt.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, torch_export or torchscript. Default: by the end of the file's name.",
        ),
    ] = "",
    image_shape: Annotated[
        str, typer.Option(help="Of a function's model: channels, height, width, such as 3,32,32.")
    ] = "",
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Write a model into a file for other runtimes, and check that it says the same."""
    from components.models.build import Model
    from components.models.export import ExportFailed, export_model
    from pipelines.targets import load_candidate
    from pipelines.workspace import Workspace

    with usage_errors():
        shape = _read_shape(image_shape)
        found = load_candidate(model, Workspace(workspace).tracking_uri).model.cpu()
        if isinstance(found, Model) and not shape:
            shape = found.spec.image_shape
        elif bool(shape) == isinstance(found, Model):
            raise ValueError(
                "--image-shape goes with a function's model, whose images nobody knows, and only "
                "with one"
            )
        if not output.parent.is_dir():
            raise ValueError(f"there is no folder {output.parent}")
        try:
            difference = export_model(found, shape, output, form=form)
        except ExportFailed as error:
            say_and_exit(str(error), FAILED)
    size = output.stat().st_size / 1e6
    typer.echo(f"{output} written, {size:.2f} MB; its logits are within {difference:.1g} of ours")


def _read_shape(text: str) -> tuple[int, ...]:
    """Read channels, height and width; none are none."""
    sizes = text.split(",") if text else []
    if sizes and (len(sizes) != 3 or not all(size.strip().isdecimal() for size in sizes)):
        raise ValueError(f"--image-shape must be three numbers such as 3,32,32, got {text!r}")
    return tuple(int(size) for size in sizes)
