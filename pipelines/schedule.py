"""Schedules as code: a cluster's recurring runs made what a file says, never two active at once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api as api

from components import cluster
from components.config import Config, field_types, unknown
from pipelines.compile import compile_pipeline, version_name
from pipelines.graph import read_arguments
from pipelines.kubeflow import Missing, Server, ServerTrouble
from pipelines.placement import read_mapping, read_placement
from pipelines.submit import (
    Version,
    find_experiment,
    find_version,
    provide_experiment,
    provide_version,
)
from pipelines.usage import load_settings

MARK = "Kept by 'bartizan schedule apply'; changes made by hand are lost."
"""Description of the recurring runs that are ours to change and to delete."""

_PAGE_SIZE = 100
_CRON_FIELD = re.compile(r"[\w*?/,-]+")
_CRON_LIMITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@dataclass(frozen=True, kw_only=True)
class ScheduledRun(Config):
    """A pipeline that runs again by the clock.

    Attributes:
        cron: six fields, seconds first, in the server's time zone: ``0 0 2 * * *`` is 02:00 daily.
        recipe: by name, or a .py file.
        pipeline: an entry of PIPELINES; "" is the recipe's.
        settings: ``section.field=value``, as for --set.
        pool: where the steps run that want an accelerator.
        experiment: where the server lists the runs.
        service_account: of the pods.
        paused: whether it waits until a later file says otherwise.
    """

    cron: str
    recipe: str = "digits"
    pipeline: str = ""
    settings: tuple[str, ...] = ()
    pool: str = "gpu-small"
    experiment: str = "bartizan"
    service_account: str = cluster.SERVICE_ACCOUNT
    paused: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fields = self.cron.split()
        if len(fields) != len(_CRON_LIMITS):
            raise ValueError(
                "cron must have six fields, seconds first, such as '0 0 2 * * *' for 02:00 daily, "
                f"got {self.cron!r}"
            )
        for text, (low, high) in zip(fields, _CRON_LIMITS, strict=True):
            numbers = [int(n) for n in re.findall(r"(?<!/)\b\d+", text)]
            if not _CRON_FIELD.fullmatch(text) or any(not low <= n <= high for n in numbers):
                raise ValueError(f"cron has {text!r} where {low} to {high} may be: {self.cron!r}")


@dataclass(frozen=True)
class Wanted:
    """A recurring run that a file asks for.

    Attributes:
        name: tells it from the others.
        run: what it is.
        compiled: its pipeline, with settings, images and pools.
    """

    name: str
    run: ScheduledRun
    compiled: Path


@dataclass(frozen=True)
class Plan:
    """What has to happen so that the server has one recurring run of a name, as wanted, or none.

    Attributes:
        name: of the recurring run.
        wanted: what the file says; None if it does not name it.
        kept: the one on the server that is as wanted, but for being paused or not.
        others: of that name on the server.
        changes: in words, from what is there to what is wanted.
    """

    name: str
    wanted: Wanted | None
    kept: Any
    others: Sequence[Any]
    changes: Sequence[str]

    def __str__(self) -> str:
        if self.wanted is None:
            return f"- {self.name}"
        if self.kept is None and not self.others:
            return f"+ {self.name}: {', '.join(self.changes)}"
        return f"~ {self.name}: {', '.join(self.changes)}" if self.changes else f"= {self.name}"


def read_schedules(file: Path, images: Path, pools: Path | None, folder: Path) -> list[Wanted]:
    """Read the wanted recurring runs and compile their pipelines.

    Args:
        file: YAML or JSON: names, each with the fields of a `ScheduledRun`.
        images: the image for each symbolic name.
        pools: the user's own pools of nodes.
        folder: receives the compiled pipelines.

    Raises:
        ValueError: a file, a name or a value is wrong.
    """
    wanted: list[Wanted] = []
    for name, fields in read_mapping(file).items():
        known = field_types(ScheduledRun)
        if not isinstance(fields, dict) or "cron" not in fields:
            raise ValueError(f"{file}: {name} must be fields with values, among them cron")
        for field in fields:
            if field not in known:
                raise ValueError(f"{file}: {unknown(f'field of {name}', field, known)}")
        try:
            run = ScheduledRun(**fields)
            recipe = load_settings(run.recipe, run.settings)
            placement = read_placement(images, pools, run.pool)
            compiled = folder / f"{len(wanted)}.yaml"
            compile_pipeline(run.pipeline or recipe.pipeline, recipe, compiled, placement)
        except ValueError as error:
            raise ValueError(f"{file}: {name}: {error}") from error
        wanted.append(Wanted(name, run, compiled))
    return wanted


def compare(wanted: Sequence[Wanted], server: Server) -> list[Plan]:
    """Say what has to happen; nothing is changed yet.

    Raises:
        ServerTrouble: the server refuses or does not answer, or has a recurring run of a wanted
            name that is not ours.
    """
    found = list(_recurring_runs(server))
    ours = [run for run in found if run.description == MARK]
    names = {entry.name for entry in wanted}
    for run in found:
        if run.display_name in names and run not in ours:
            raise ServerTrouble(
                f"the recurring run {run.display_name} was made by somebody else; "
                "give it or ours another name"
            )
    copies = {name: [run for run in ours if run.display_name == name] for name in names}
    changed = [_plan(entry, copies[entry.name], server) for entry in wanted]
    return changed + [
        Plan(run.display_name, None, None, [run], ())
        for run in ours
        if run.display_name not in names
    ]


def carry_out(plan: Plan, server: Server) -> None:
    """Do what a plan says.

    A new recurring run is paused until the others of its name are gone: stopped half-way, it leaves
    at most one active, and the next time the rest is done.

    Raises:
        ServerTrouble: the server refuses or does not answer.
    """
    calls, kept = server.client.recurring_runs, plan.kept
    if plan.wanted and kept is None:
        kept = _create_paused(plan.wanted, server)
    for other in plan.others:
        delete = calls.recurring_run_service_delete_recurring_run
        with suppress(Missing):  # an answer to our first asking was lost
            server.ask(delete, recurring_run_id=other.recurring_run_id)
    if plan.wanted and _is_paused(kept) != plan.wanted.run.paused:
        pause = calls.recurring_run_service_disable_recurring_run
        resume = calls.recurring_run_service_enable_recurring_run
        switch = pause if plan.wanted.run.paused else resume
        server.ask(switch, recurring_run_id=kept.recurring_run_id)


def _plan(wanted: Wanted, found: Sequence[Any], server: Server) -> Plan:
    version = find_version(server, wanted.compiled)
    same = [run for run in found if version and not _differences(wanted, run, version, server)]
    kept = same[0] if same else None
    others = [run for run in found if run is not kept]
    if kept is None:
        changes = [change for run in found for change in _differences(wanted, run, version, server)]
        changes = changes or [f"cron {wanted.run.cron}"]
        changes += ["paused"] if wanted.run.paused else []
    elif _is_paused(kept) != wanted.run.paused:
        changes = ["paused" if wanted.run.paused else "resumed"]
    else:
        changes = ["a copy deleted"] if others else []
    return Plan(wanted.name, wanted, kept, others, changes)


def _differences(wanted: Wanted, run: Any, version: Version | None, server: Server) -> list[str]:
    """Say in words in what a recurring run is not as wanted, apart from being paused or not."""
    cron = run.trigger.cron_schedule.cron if run.trigger.cron_schedule else "none"
    reference = run.pipeline_version_reference
    changes = []
    if cron != wanted.run.cron:
        changes.append(f"cron {cron} -> {wanted.run.cron}")
    if version is None or reference.pipeline_version_id != version.version_id:
        changes.append(f"version -> {version_name(wanted.compiled)}")
    if run.service_account != wanted.run.service_account:
        changes.append(f"service account {run.service_account} -> {wanted.run.service_account}")
    if run.experiment_id != find_experiment(server, wanted.run.experiment):
        changes.append(f"experiment -> {wanted.run.experiment}")
    return changes


def _create_paused(wanted: Wanted, server: Server) -> Any:
    version = provide_version(server, wanted.compiled)
    recurring = api.V2beta1RecurringRun(
        display_name=wanted.name,
        description=MARK,
        experiment_id=provide_experiment(server, wanted.run.experiment),
        pipeline_version_reference=version.reference(),
        runtime_config=api.V2beta1RuntimeConfig(parameters=read_arguments(wanted.compiled)),
        service_account=wanted.run.service_account,
        trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=wanted.run.cron)),
        mode=api.RecurringRunMode.DISABLE,
        max_concurrency="1",
        no_catchup=True,  # a retraining that was missed is not made up for
    )

    def find() -> Any:
        same = [
            run
            for run in _recurring_runs(server)
            if (run.display_name, run.description) == (wanted.name, MARK)
            and not _differences(wanted, run, version, server)
        ]
        return same[0] if same else None

    create = server.client.recurring_runs.recurring_run_service_create_recurring_run
    return server.change(create, find=find, recurring_run=recurring)


def _is_paused(run: Any) -> bool:
    return bool(run.status == api.V2beta1RecurringRunStatus.DISABLED)


def _recurring_runs(server: Server) -> Iterator[Any]:
    listing = server.client.recurring_runs.recurring_run_service_list_recurring_runs
    token = ""
    while True:
        page = server.ask(listing, page_token=token, page_size=_PAGE_SIZE, **server.scope)
        yield from page.recurring_runs or ()
        if not (token := page.next_page_token or ""):
            return
