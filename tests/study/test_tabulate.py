"""The table of a study against means and deviations worked out by hand."""

import itertools
import json
from dataclasses import replace

import pyarrow as pa
import pytest

from components.evaluation.report import Accuracy, RobustnessReport, save_report
from components.study.tabulate import PAGE, TABLE, load_table, save_table, tabulate, tell_gain

NUM_IMAGES = 200


def report(title, clean, naive, robust, trust="trusted"):
    def share(value):
        return Accuracy.of(value, NUM_IMAGES)

    return RobustnessReport(
        title=title,
        model={},
        data={"fingerprint": "abc"},
        norm="linf",
        epsilon=0.3,
        clean_accuracy=share(clean),
        naive_robust_accuracy=share(naive),
        robust_accuracy=share(robust),
        attacks=(),
        metrics={},
        curve=(),
        checks=(),
        trust=trust,
        costs={},
        settings={},
        versions={},
        seconds=0.0,
    )


REPORTS = [
    report("train-plain-0", 0.9, 0.3, 0.3),
    report("train-plain-5", 0.8, 0.5, 0.4),
    report("train-hard-0", 0.7, 0.8, 0.5),
    report("train-hard-5", 0.7, 0.9, 0.7, "doubtful"),
]
TRAININGS = [
    {"arm": arm, "seed": seed, "train": f"train-{arm}-{seed}"}
    for arm, seed in itertools.product(("plain", "hard"), "05")
]


def saved(folder, reports):
    folders = []
    for number, each in enumerate(reports):
        save_report(each, pa.table({"id": ["a"]}), folder / str(number))
        folders.append(folder / str(number))
    return folders


@pytest.fixture
def table(tmp_path):
    return tabulate(TRAININGS, saved(tmp_path, reversed(REPORTS)))


def test_means_deviations_and_gains(table):
    plain, hard = table.rows
    assert (plain.arm, plain.seeds, hard.arm) == ("plain", (0, 5), "hard")
    assert plain.clean.mean.value == pytest.approx(0.85)
    assert plain.clean.deviation == pytest.approx(0.1 / 2**0.5)
    assert hard.robust.mean.value == pytest.approx(0.6)
    # Seed by seed 0.2 and 0.3.
    assert hard.gain == (pytest.approx(0.25), pytest.approx(0.1 / 2**0.5))
    assert plain.gain == (0.0, 0.0)
    assert tell_gain(hard) == "+25.0 ± 7.1"


def test_several_seeds_on_the_same_images_make_no_narrower_interval(table):
    mean = table.rows[1].robust.mean
    assert (mean.low, mean.high) == (Accuracy.of(0.6, NUM_IMAGES).low, mean.high)
    assert mean.num_images == NUM_IMAGES


def test_the_worst_trust_is_that_of_the_arm(table):
    assert [row.trust for row in table.rows] == ["trusted", "doubtful"]


def test_one_seed_has_no_deviation(tmp_path):
    table = tabulate(TRAININGS[::2], saved(tmp_path, REPORTS))
    assert [row.robust.deviation for row in table.rows] == [None, None]
    assert [str(row.robust) for row in table.rows] == ["30.0", "50.0"]


def test_table_survives_its_file(table, tmp_path):
    save_table(table, tmp_path / "table")
    assert load_table(tmp_path / "table") == table
    page = (tmp_path / "table" / PAGE).read_text(encoding="utf-8")
    assert "hard: honest 60.0 ± 14.1 %, naive 85.0 ± 7.1 %" in page
    values = json.loads((tmp_path / "table" / TABLE).read_text(encoding="utf-8"))
    (tmp_path / "table" / TABLE).write_text(json.dumps({**values, "schema": 0}))
    with pytest.raises(ValueError, match="has schema 0"):
        load_table(tmp_path / "table")


def test_report_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match="no report of train-plain-5"):
        tabulate(TRAININGS, saved(tmp_path, [REPORTS[0], *REPORTS[2:]]))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"epsilon": 0.2}, "threat model"),
        ({"data": {"fingerprint": "xyz"}}, "data"),
        ({"robust_accuracy": Accuracy.of(0.5, 100)}, "number of images"),
    ],
)
def test_reports_that_cannot_be_compared(change, what, tmp_path):
    reports = [*REPORTS[:3], replace(REPORTS[3], **change)]
    with pytest.raises(ValueError, match=f"must agree on the {what}"):
        tabulate(TRAININGS, saved(tmp_path, reports))
