"""The command line's part about schedules: of a cluster, apply; of this machine, the others."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import local_schedule_commands
from pipelines.cluster_commands import (
    CaFileOption,
    EndpointOption,
    ImagesOption,
    NamespaceOption,
    PoolsOption,
    TokenFileOption,
)
from pipelines.usage import FAILED, say_and_exit, usage_errors

app = typer.Typer(help="Runs that come again by the clock.", no_args_is_help=True)
local_schedule_commands.add_to(app)


@app.callback()
def schedule() -> None:
    """Runs that come again by the clock."""


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="The wanted recurring runs, in YAML or JSON.")],
    images: ImagesOption,
    pools: PoolsOption = None,
    endpoint: EndpointOption = "",
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Make a cluster's recurring runs what a file says: create, replace, pause, delete."""
    import tempfile

    from pipelines.kubeflow import Access, Server, ServerTrouble
    from pipelines.schedule import carry_out, compare, read_schedules

    with usage_errors(), tempfile.TemporaryDirectory() as folder:
        wanted = read_schedules(file, images, pools, Path(folder))
        try:
            server = Server(Access(endpoint, token_file, ca_file, namespace))
            plans = compare(wanted, server)
            for plan in plans:
                typer.echo(str(plan))
            for plan in () if dry_run else plans:
                carry_out(plan, server)
        except ServerTrouble as error:
            say_and_exit(str(error), FAILED)
