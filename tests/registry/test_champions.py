"""Who is champion: one winner of many at once, rollbacks, dead processes, deleted versions."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from components import tracking
from components.registry.champions import (
    StaleVerdict,
    crown,
    find_champion,
    list_reigns,
    roll_back,
    settle,
)
from components.registry.config import PromotionConfig
from components.registry.models import judge
from components.registry.verdict import save_verdict

SETTINGS = PromotionConfig(model_name="contested")


@pytest.fixture
def versions(store):
    """Versions 1 to 4 of a model, without any content."""
    store.create_registered_model("m")
    for _ in range(4):
        store.create_model_version("m", source="/nowhere")
    return store


def begin(version, expected, how="promotion"):
    return crown("m", version, expected=expected, how=how, reason=f"{version} it is")


def alias(store):
    return str(store.get_registered_model("m").aliases["champion"])


def test_reigns_follow_each_other_and_are_rolled_back(versions):
    assert find_champion("m") is None
    begin("1", "")
    begin("2", "1")
    begin("3", "2", how="override")
    assert find_champion("m") == alias(versions) == "3"
    assert versions.get_registered_model("m").tags["champions"] == "1 2 3"
    assert roll_back("m").champion == alias(versions) == "2"
    assert roll_back("m").champion == find_champion("m") == "1"
    with pytest.raises(ValueError, match="m has no earlier champion"):
        roll_back("m")
    begin("3", "1")
    assert roll_back("m").champion == "1"
    assert [(r.number, r.champion, r.how) for r in reversed(list_reigns("m"))] == [
        (1, "1", "promotion"),
        (2, "2", "promotion"),
        (3, "3", "override"),
        (4, "2", "rollback"),
        (5, "1", "rollback"),
        (6, "3", "promotion"),
        (7, "1", "rollback"),
    ]
    assert list_reigns("m")[-1].reason == "1 it is"
    assert [e.name for e in versions.search_experiments()] == ["bartizan", "Default"]


def test_what_was_decided_about_another_champion_is_refused(versions):
    begin("1", "")
    with pytest.raises(StaleVerdict, match=r"compared with champion none.* is 1; compare again"):
        begin("2", "")
    with pytest.raises(StaleVerdict, match="champion 3"):
        begin("2", "3")
    with pytest.raises(ValueError, match="m 1 is the champion already"):
        begin("1", "1")
    assert find_champion("m") == "1"


class Died(BaseException):
    pass


@pytest.mark.parametrize("call", ["delete_experiment", "set_registered_model_alias"])
def test_a_process_that_dies_on_its_way_has_promoted_all_the_same(versions, monkeypatch, call):
    begin("1", "")

    def die(*_):
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, call, die)
        with pytest.raises(Died):
            begin("2", "1")
    assert find_champion("m") == "2"
    with pytest.raises(StaleVerdict, match="by now the champion is 2"):
        begin("3", "1")
    settle("m")
    assert alias(versions) == "2"
    begin("3", "2")
    assert alias(versions) == "3"
    assert len(versions.search_experiments()) == 2


def test_a_writer_that_slept_leaves_no_old_alias(versions, monkeypatch):
    """It comes back with its alias after a later reign has begun, and puts that right itself."""
    begin("1", "")
    move = mlflow.MlflowClient.set_registered_model_alias

    def sleep_meanwhile(client, *words):
        monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", move)
        begin("3", "2")
        assert alias(versions) == "3"
        move(client, *words)
        assert alias(versions) == "2"

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", sleep_meanwhile)
    begin("2", "1")
    assert find_champion("m") == alias(versions) == "3"


def test_a_request_that_was_answered_twice_has_won(versions, monkeypatch):
    """A client that hears no answer asks again, and is refused because it had succeeded."""
    create = mlflow.MlflowClient.create_experiment

    def twice(*words, **options):
        create(*words, **options)
        return create(*words, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "create_experiment", twice)
    assert begin("1", "").number == 1
    assert alias(versions) == "1"


def test_two_first_writers_of_an_alias_collide_in_mlflow(versions, monkeypatch):
    """As MLflow answers the slower one; the second attempt finds the row and changes it."""
    move, refusals = mlflow.MlflowClient.set_registered_model_alias, ["UNIQUE constraint failed"]

    def collide(client, *words):
        if refusals:
            raise mlflow.MlflowException(refusals.pop(), error_code=BAD_REQUEST)
        move(client, *words)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", collide)
    begin("1", "")
    assert alias(versions) == "1"


def test_a_deleted_champion_gives_way_to_the_one_before(versions):
    begin("1", "")
    begin("2", "1")
    versions.delete_model_version("m", "2")
    assert find_champion("m") == "1"
    begin("3", "1")
    assert roll_back("m").champion == "1"


def test_a_champion_from_before_there_were_records(versions):
    versions.set_registered_model_alias("m", "champion", "2")
    assert find_champion("m") == "2"
    begin("4", "2")
    assert roll_back("m").champion == "2"


def test_a_new_model_of_an_old_name_starts_afresh(versions):
    begin("1", "")
    versions.delete_registered_model("m")
    assert find_champion("m") is None
    versions.create_registered_model("m")
    versions.create_model_version("m", source="/nowhere")
    assert find_champion("m") is None
    assert begin("1", "").number == 1


def contest(uri, challenger, tmp_path, monkeypatch):
    monkeypatch.setenv(tracking.URI, uri)
    monkeypatch.setenv(tracking.PIPELINE_RUN, "contest")
    monkeypatch.chdir(tmp_path)
    save_verdict(judge(SETTINGS, challenger.report), tmp_path / "verdict")
    for name in ("checkpoint", "report"):
        getattr(challenger, name).rename(tmp_path / name)
    tracking.open_pipeline_run("contest", "contest")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("contenders.py"), tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return {int(number): won for number, won in json.loads(ran.stdout.splitlines()[-1]).items()}


def check_contest(won):
    """Nothing is lost, and every reign has one winner."""
    client = mlflow.MlflowClient()
    turns = sorted(turn for mine in won.values() for turn in mine)
    assert turns == [0, 1, 2]
    reigns = list_reigns("contested")
    assert [reign.number for reign in reigns] == [3, 2, 1]
    last = next(number for number, mine in won.items() if 2 in mine)
    model = client.get_registered_model("contested")
    assert find_champion("contested") == str(model.aliases["champion"]) == str(last)

    experiment = client.get_experiment_by_name("bartizan").experiment_id
    runs = client.search_runs([experiment], "tags.`bartizan.role` = 'step'")
    assert sorted(run.info.run_name for run in runs) == [f"contender-{n}" for n in range(1, 9)]
    for run in runs:
        number = int(run.info.run_name.rpartition("-")[2])
        curve = client.get_metric_history(run.info.run_id, "curve")
        assert {p.step: p.value for p in curve} == {n: number + n / 40 for n in range(40)}
    found = client.search_model_versions("name = 'contested'")
    assert sorted(int(version.version) for version in found) == list(range(1, 9))
    assert {version.run_id for version in found} == {run.info.run_id for run in runs}


def test_eight_processes_on_sqlite(store, make_challenger, tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    check_contest(contest(uri, make_challenger("one"), tmp_path, monkeypatch))


@pytest.mark.slow
def test_eight_processes_on_postgresql(mlflow_server, make_challenger, tmp_path, monkeypatch):
    check_contest(contest(mlflow_server, make_challenger("one"), tmp_path, monkeypatch))
