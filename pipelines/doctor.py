"""bartizan doctor: whether all is here that a step needs, and what to do where it is not."""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import typer

from components.secrecy import hide_secrets
from pipelines.usage import FAILED, WORKSPACE, WRONG_USAGE, WorkspaceOption, say_and_exit

_LIBRARIES = ("torch", "torchvision", "kfp", "mlflow")
_GIB = 1 << 30
_LONGEST_LINE = 300
_LOW_DISK = _GIB
_LOW_SHARED_MEMORY = _GIB  # containers have 64 MiB unless told otherwise
# A step waits minutes for a server that is restarting; who asks for a check wants to know now.
_PATIENCE = {
    "AWS_MAX_ATTEMPTS": "2",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    grade: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def doctor(
    workspace: WorkspaceOption = WORKSPACE,
    s3: Annotated[
        str, typer.Option("--s3", help="Also list this folder, s3://BUCKET/PREFIX.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check versions, device, places to write and servers; exit with 1 if a step would fail."""
    if s3 and not s3.startswith("s3://"):
        say_and_exit(f"--s3 must be s3://BUCKET/PREFIX, got {s3}", WRONG_USAGE)
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    findings = []
    for finding in chain(
        check_versions(),
        check_device(),
        check_places(workspace),
        check_shared_memory(),
        check_tracking(workspace),
        check_bucket(s3),
    ):
        findings.append(replace(finding, found=_hide(finding.found)))
        if not as_json:
            _show(findings[-1])
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.grade == "fail" for finding in findings):
        raise typer.Exit(FAILED)


def check_versions() -> Iterator[Finding]:
    """Load each library, since one that is installed may still not load."""
    yield Finding("python", "ok", sys.version.split()[0])
    yield Finding("bartizan", "ok", importlib.metadata.version("bartizan"))
    for name in _LIBRARIES:
        try:
            yield Finding(name, "ok", importlib.import_module(name).__version__)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            advice = "run it from the image or with uv, which install what belongs together"
            if name.startswith("torch"):
                advice = "install torch and torchvision in matching versions from one index"
            yield Finding(name, "fail", f"does not load: {_line(error)}", advice)


def check_device() -> Iterator[Finding]:
    """Name every accelerator with its memory, or else the processor's threads."""
    try:
        import torch
    except (ImportError, OSError):
        return  # said already
    for number in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(number)
        except RuntimeError as error:
            advice = "look at nvidia-smi on the node: another process may hold the device"
            yield Finding(f"cuda:{number}", "fail", _line(error), advice)
            continue
        found = f"{torch.cuda.get_device_name(number)}, {_gib(free)} of {_gib(total)} free"
        yield Finding(f"cuda:{number}", "ok", found)
    if not torch.cuda.is_available() and _device_promised():
        yield Finding(
            "cuda",
            "warn",
            f"a device should be here, but torch {torch.__version__} sees none",
            "ask for nvidia.com/gpu in the pod, and compare the driver with torch's CUDA version",
        )
    yield _check_threads(torch.get_num_threads())


def check_places(workspace: Path) -> Iterator[Finding]:
    """Try to write wherever a step writes; nothing is left behind."""
    places = {
        "temporary": Path(tempfile.gettempdir()),
        "home": Path.home(),
        "torch home": Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch"),
        "workspace": workspace.resolve(),
    }
    for name, place in places.items():
        there = next(path for path in (place, *place.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there) as file:
                file.write(b"bartizan")
        except OSError as error:
            advice = f"mount a volume on {place}, or let user {os.getuid()} write there"
            yield Finding(name, "fail", f"{place} cannot be written: {error.strerror}", advice)
            continue
        free = shutil.disk_usage(there).free
        found = f"{place}, {_gib(free)} free"
        if free < _LOW_DISK:
            yield Finding(name, "warn", found, f"make room: a step may need {_gib(_LOW_DISK)}")
        else:
            yield Finding(name, "ok", found)


def check_shared_memory() -> Iterator[Finding]:
    """Measure /dev/shm, through which the processes of a node exchange gradients."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return  # not on this system
    size = shutil.disk_usage(place).total
    advice = "training on several devices needs more: mount an emptyDir of medium Memory there"
    small = size < _LOW_SHARED_MEMORY
    yield Finding("/dev/shm", "warn" if small else "ok", _gib(size), advice if small else "")


def check_tracking(workspace: Path) -> Iterator[Finding]:
    """Ask the tracking store for something small, with the credentials a step would use."""
    from components.tracked_runs import URI, try_store

    if not (uri := os.environ.get(URI)):
        yield Finding("tracking", "ok", f"{URI} is not set: runs are kept in {workspace}")
        return
    try:
        try_store()
        yield Finding("tracking", "ok", uri)
    except (ImportError, OSError) as error:
        advice = f"check {URI}, the token or password that goes with it, and the network"
        yield Finding("tracking", "fail", f"{uri}: {_line(error)}", advice)


def check_bucket(address: str) -> Iterator[Finding]:
    """List a folder in a bucket, if there is one to try."""
    if not address:
        if os.environ.get("AWS_ENDPOINT_URL"):
            advice = "try a folder on it with --s3 s3://BUCKET/PREFIX"
            yield Finding("s3", "warn", "AWS_ENDPOINT_URL is set, but was not tried", advice)
        return
    from components.storage import open_folder

    try:
        first = next(iter(open_folder(address).entries()), None)
    except (ValueError, OSError) as error:
        yield Finding("s3", "fail", _line(error), "see the README, Data, for the AWS settings")
    else:
        yield Finding("s3", "ok", f"{address} is {'not empty' if first else 'empty'}")


def _check_threads(threads: int) -> Finding:
    """Compare torch's threads with the processor time that the container may use."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    allowed = min(here or 1, _quota())
    if threads > max(1, allowed):
        advice = f"set OMP_NUM_THREADS={max(1, int(allowed))}: the others only wait for their turn"
        return Finding("threads", "warn", f"{threads} for {allowed:g} processors", advice)
    return Finding("threads", "ok", f"{threads} for {allowed:g} processors")


def _quota(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Give the processors' worth of time that a control group allows; infinity if no limit."""
    file = group / "cpu.max"
    quota, _, period = (file.read_text() if file.is_file() else "max 1").partition(" ")
    return float("inf") if quota == "max" else int(quota) / int(period)


def _device_promised() -> bool:
    """Say whether an NVIDIA device was asked for or its driver is here, and none was hidden."""
    asked = os.environ.get("NVIDIA_VISIBLE_DEVICES", "void") not in ("", "void", "none")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return (asked or Path("/dev/nvidiactl").exists()) and not hidden


def _show(finding: Finding) -> None:
    typer.echo(f"{finding.grade:<5}{finding.check:<12}{finding.found}")
    if finding.advice:
        typer.echo(f"{'':<17}{finding.advice}")


def _hide(text: str) -> str:
    """Take out credentials of this environment and all that comes before a host in an address."""
    return re.sub(r"//[^/@\s]+@", "//***@", hide_secrets(text))


def _line(error: BaseException) -> str:
    """Give what an error says; hidden first, for half a secret is not recognised."""
    return _hide(" ".join(str(error).split()))[:_LONGEST_LINE] or type(error).__name__


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
