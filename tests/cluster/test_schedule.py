"""A file of recurring runs is what the server has afterwards, with never two active copies."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.schedule import MARK
from tests.cluster.conftest import compile_once
from tests.cluster.kubeflow_server import Fault

NIGHTLY = {"recipe": "tiny", "cron": "0 0 2 * * *"}


@pytest.fixture
def apply(kubeflow, image_file, tmp_path, monkeypatch):
    """Apply schedules, and give what was said and what is there, by name."""
    kubeflow.executes = False
    # Trying a recipe's choices takes a second each time, and has tests of its own.
    monkeypatch.setattr("pipelines.settings.check_choices", lambda recipe: None)
    monkeypatch.setattr("pipelines.schedule.compile_pipeline", compile_once)

    def applied(wanted, *words, code=0):
        file = tmp_path / "schedules.yaml"
        file.write_text(yaml.safe_dump(wanted))
        command = ["schedule", "apply", str(file), "--images", str(image_file), *words]
        result = CliRunner().invoke(app, [*command, "--endpoint", kubeflow.address])
        assert result.exit_code == code, result.output
        there = {run["display_name"]: run for run in kubeflow.recurring.values()}
        assert len(there) == len(kubeflow.recurring)
        assert kubeflow.most_active <= 1
        return result.output.strip(), there

    return applied


def test_created_as_the_file_says(apply, kubeflow):
    said, there = apply({"nightly": NIGHTLY})
    assert said == "+ nightly: cron 0 0 2 * * *"
    run = there["nightly"]
    assert run["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert (run["status"], run["no_catchup"], run["max_concurrency"]) == ("ENABLED", True, "1")
    assert run["service_account"] == "bartizan-pipelines" and run["description"] == MARK
    (version,) = kubeflow.versions.values()
    assert (
        run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    )
    image = json.dumps(version["pipeline_spec"])
    assert "registry.example/bartizan@sha256:" in image and "bartizan-python-gpu" not in image


def test_the_same_file_again_changes_nothing(apply, kubeflow):
    _, before = apply({"nightly": NIGHTLY})
    kubeflow.requests.clear()
    said, after = apply({"nightly": NIGHTLY})
    assert said == "= nightly" and before == after
    assert {method for method, _ in kubeflow.requests} == {"GET"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cron": "0 30 3 * * 0"}, "~ nightly: cron 0 0 2 * * * -> 0 30 3 * * 0"),
        ({"settings": ["training.epochs=3"]}, "~ nightly: version -> train-robust-"),
        ({"pool": "gpu-large"}, "~ nightly: version -> train-robust-"),
        ({"experiment": "others"}, "~ nightly: experiment -> others"),
        ({"service_account": "x"}, "~ nightly: service account bartizan-pipelines -> x"),
    ],
)
def test_a_change_replaces(apply, change, words):
    _, before = apply({"nightly": NIGHTLY})
    said, after = apply({"nightly": NIGHTLY | change})
    assert said.startswith(words)
    assert before["nightly"]["recurring_run_id"] != after["nightly"]["recurring_run_id"]
    assert after["nightly"]["status"] == "ENABLED"
    assert apply({"nightly": NIGHTLY | change})[0] == "= nightly"


def test_paused_resumed_and_removed(apply):
    _, before = apply({"nightly": NIGHTLY})
    said, there = apply({"nightly": NIGHTLY | {"paused": True}})
    assert said == "~ nightly: paused" and there["nightly"]["status"] == "DISABLED"
    said, there = apply({"nightly": NIGHTLY})
    assert said == "~ nightly: resumed" and there == before
    said, there = apply({})
    assert said == "- nightly" and not there


def test_made_paused(apply):
    said, there = apply({"nightly": NIGHTLY | {"paused": True}})
    assert said == "+ nightly: cron 0 0 2 * * *, paused"
    assert there["nightly"]["status"] == "DISABLED"


def test_a_dry_run_only_says(apply, kubeflow):
    apply({"old": NIGHTLY})
    kubeflow.requests.clear()
    said, there = apply({"nightly": NIGHTLY | {"pool": "cpu"}}, "--dry-run")
    assert said == "+ nightly: cron 0 0 2 * * *\n- old" and list(there) == ["old"]
    assert {method for method, _ in kubeflow.requests} == {"GET"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/recurringruns", "lost"),
        Fault("DELETE", "/recurringruns/", "lost"),
        Fault("DELETE", "/recurringruns/", 500),
        Fault("POST", ":enable", "lost"),
        Fault("GET", "/recurringruns", 503),
    ],
    ids=lambda fault: f"{fault.method}-{fault.path}-{fault.kind}".replace("/", ""),
)
def test_a_lost_answer_leaves_one_copy(apply, kubeflow, fault):
    apply({"nightly": NIGHTLY})
    kubeflow.faults.append(fault)
    _, there = apply({"nightly": NIGHTLY | {"cron": "0 0 4 * * *"}})
    assert there["nightly"]["status"] == "ENABLED"


def test_what_was_stopped_half_way_is_finished_the_next_time(apply, kubeflow):
    """The server breaks between making the new one and deleting the old one."""
    apply({"nightly": NIGHTLY})
    (old,) = kubeflow.recurring
    kubeflow.faults.append(Fault("DELETE", "/recurringruns/", 500, times=4))
    with pytest.raises(AssertionError):  # there are two, of which one is active
        apply({"nightly": NIGHTLY | {"cron": "0 0 4 * * *"}}, code=1)
    assert len(kubeflow.recurring) == 2 and kubeflow.most_active == 1
    said, there = apply({"nightly": NIGHTLY | {"cron": "0 0 4 * * *"}})
    assert there["nightly"]["recurring_run_id"] != old
    assert there["nightly"]["status"] == "ENABLED" and said.startswith("~ nightly")


def test_those_of_others_are_left_alone(apply, kubeflow):
    _, there = apply({"theirs": NIGHTLY})
    there["theirs"]["description"] = "by hand"
    said, there = apply({})
    assert said == "" and list(there) == ["theirs"]
    said, _ = apply({"theirs": NIGHTLY}, code=1)
    assert "the recurring run theirs was made by somebody else" in said


def test_more_than_one_page(apply, kubeflow, monkeypatch):
    monkeypatch.setattr("pipelines.schedule._PAGE_SIZE", 2)
    wanted = {f"n{number}": NIGHTLY for number in range(3)}
    apply(wanted)
    assert apply(wanted)[0].splitlines() == [f"= {name}" for name in wanted]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([], "must hold values by name"),
        ({"nightly": "0 0 2 * * *"}, "nightly must be fields with values, among them cron"),
        ({"nightly": {"recipe": "tiny"}}, "nightly must be fields with values, among them cron"),
        ({"nightly": NIGHTLY | {"corn": 1}}, "unknown field of nightly 'corn', expected one of"),
        ({"nightly": NIGHTLY | {"cron": "0 2 * * *"}}, "cron must have six fields, seconds first"),
        ({"nightly": NIGHTLY | {"cron": "0 0 25 * * *"}}, "cron has '25' where 0 to 23 may be"),
        ({"nightly": NIGHTLY | {"recipe": "huge"}}, "nightly: unknown recipe 'huge'"),
        ({"nightly": NIGHTLY | {"pool": "moon"}}, "nightly: unknown pool 'moon'"),
        ({"nightly": NIGHTLY | {"settings": ["x=1"]}}, "a setting is written section.field=value"),
    ],
)
def test_wrong_files_are_said_in_one_line_before_anything_is_asked(
    apply, kubeflow, wanted, message
):
    said, _ = apply(wanted, code=2)
    assert message in said and said.count("\n") == 0
    assert not kubeflow.requests
