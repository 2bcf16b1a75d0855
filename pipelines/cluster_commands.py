"""The command line's part about clusters: bartizan compile, submit."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.usage import (
    FAILED,
    INTERRUPTED,
    PipelineArgument,
    RecipeOption,
    SettingsOption,
    load_settings,
    say_and_exit,
    usage_errors,
)

if TYPE_CHECKING:
    from pipelines.kubeflow import Server
    from pipelines.recipe import Recipe

_IMAGES = "The image for each symbolic name, as images/build.sh writes it."
PoolsOption = Annotated[
    Path | None, typer.Option("--pools", help="Your own pools of nodes, in YAML or JSON.")
]
PoolOption = Annotated[
    str, typer.Option("--pool", help="Where the steps run that want an accelerator.")
]
EndpointOption = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT",
        help="Address of Kubeflow Pipelines; inside a cluster, its own by default. "
        "A token or a cookie comes from KF_PIPELINES_TOKEN or KF_PIPELINES_COOKIE.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(envvar="KF_PIPELINES_SA_TOKEN_PATH", help="File with a service account's token."),
]
CaFileOption = Annotated[
    Path | None, typer.Option(help="Certificates of whoever has signed the server's.")
]
NamespaceOption = Annotated[str, typer.Option(help="Of runs, where the server has several users.")]
ImagesOption = Annotated[Path, typer.Option("--images", help=_IMAGES)]
POOL = "gpu-small"


def compile_(
    pipeline: PipelineArgument = "",
    recipe: RecipeOption = "digits",
    settings: SettingsOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; PIPELINE.yaml by default.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help=f"{_IMAGES} Without, the file runs on no cluster.")
    ] = None,
    pools: PoolsOption = None,
    pool: PoolOption = POOL,
    manifests: Annotated[
        Path | None, typer.Option(help="Also write Pipeline and PipelineVersion into this folder.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the steps into this SVG file.")
    ] = None,
) -> None:
    """Write a pipeline as the file that a cluster executes."""
    from pipelines.compile import compile_pipeline, write_manifests
    from pipelines.graph import read_spec
    from pipelines.picture import draw_pipeline
    from pipelines.placement import read_placement

    with usage_errors():
        if images is None and (pools or manifests or pool != POOL):
            raise ValueError("--pool, --pools and --manifests are for a cluster and need --images")
        placement = read_placement(images, pools, pool) if images else None
        chosen = load_settings(recipe, settings)
        name = pipeline or chosen.pipeline
        target = output or Path(f"{name}.yaml")
        compile_pipeline(name, chosen, target, placement)
        typer.echo(f"{target} written")
        if manifests and placement:
            written = write_manifests(name, chosen, target, manifests, placement)
            typer.echo(f"{written} written")
        if picture:
            picture.write_text(draw_pipeline(read_spec(target)), encoding="utf-8")
            typer.echo(f"{picture} written")


def submit(
    images: ImagesOption,
    pipeline: PipelineArgument = "",
    recipe: RecipeOption = "digits",
    settings: SettingsOption = None,
    pools: PoolsOption = None,
    pool: PoolOption = POOL,
    endpoint: EndpointOption = "",
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    namespace: NamespaceOption = "",
    experiment: Annotated[str, typer.Option(help="Where the server lists the run.")] = "bartizan",
    service_account: Annotated[
        str, typer.Option(help="Of the run's pods; that of manifests/ by default.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end; Ctrl-C only looks away.")
    ] = False,
    terminate_on_interrupt: Annotated[
        bool, typer.Option("--terminate-on-interrupt", help="Ctrl-C ends the run.")
    ] = False,
) -> None:
    """Run a pipeline on a cluster's Kubeflow Pipelines."""
    import tempfile

    from pipelines.compile import compile_pipeline
    from pipelines.kubeflow import Access, Server, ServerTrouble
    from pipelines.placement import read_placement
    from pipelines.submit import provide_version, start_run, steps_of

    with usage_errors(), tempfile.TemporaryDirectory() as folder:
        placement = read_placement(images, pools, pool)
        chosen = load_settings(recipe, settings)
        name = pipeline or chosen.pipeline
        compiled = Path(folder, "pipeline.yaml")
        compile_pipeline(name, chosen, compiled, placement)
        try:
            server = Server(Access(endpoint, token_file, ca_file, namespace))
            version = provide_version(server, compiled)
            typer.echo(f"version  {version.name}")
            run = start_run(
                server, version, compiled, experiment=experiment, service_account=service_account
            )
            typer.echo(f"run      {run.run_id}\nKubeflow {server.page(run.run_id)}")
            _say_where_tracked(run, name, chosen)
            if wait:
                _wait(server, run.run_id, steps_of(compiled), terminate_on_interrupt)
        except ServerTrouble as error:
            say_and_exit(str(error), FAILED)


def _say_where_tracked(run: Any, pipeline: str, recipe: "Recipe") -> None:
    """Show the run in MLflow; where Kubeflow has made none, it is made here."""
    from components import tracking
    from pipelines.submit import tracked_at

    address = tracked_at(run)
    if not address and _store_answers():
        texts = {name: section.to_json() for name, section in recipe.sections().items()}
        address = tracking.open_pipeline_run(pipeline, run.run_id, texts)
    if address:
        typer.echo(f"MLflow   {address}")


def _store_answers() -> bool:
    """Say whether this machine can ask the tracking store, which the steps do in any case."""
    from components import tracked_runs

    if not os.environ.get(tracked_runs.URI):
        return False
    try:
        tracked_runs.try_store()
    except ConnectionError:
        typer.echo("MLflow   cannot be reached from here; the steps will try")
        return False
    return True


def _wait(server: "Server", run_id: str, steps: set[str], terminate: bool) -> None:
    """Follow a run; end the command as the run ended, or as Ctrl-C wants it."""
    from pipelines.submit import end_run, failures, follow_run

    try:
        run = follow_run(server, run_id, steps, typer.echo)
    except KeyboardInterrupt:
        if not terminate:
            say_and_exit(f"run {run_id} goes on: {server.page(run_id)}", INTERRUPTED)
        end_run(server, run_id)
        say_and_exit(f"run {run_id} is being ended", INTERRUPTED)
    if _store_answers():
        _settle_tracked(run_id, run.state)
    if run.state != "SUCCEEDED":
        reasons = "; ".join(failures(run, steps)) or f"the run was {run.state.lower()}"
        say_and_exit(f"{reasons}; see {server.page(run_id)}", FAILED)


def _settle_tracked(run_id: str, state: str) -> None:
    """Show the last figures of every step, and close the run where no last step does so."""
    from components import tracked_runs

    ending: tracked_runs.Status = "KILLED" if state == "CANCELED" else "FAILED"
    tracked_runs.close_pipeline_run(run_id, "FINISHED" if state == "SUCCEEDED" else ending)
    for step, figures in tracked_runs.read_figures(run_id).items():
        for name, value in sorted(figures.items()):
            typer.echo(f"{step:<24} {name:<32} {value:.4g}")
