"""Accuracy intervals against known values, and reports through a file."""

import json

import pyarrow as pa
import pytest

from components.evaluation.report import (
    REPORT,
    Accuracy,
    AttackResult,
    Check,
    RobustnessReport,
    load_report,
    save_report,
)


@pytest.fixture
def report() -> RobustnessReport:
    accuracy = Accuracy.of(0.5, 8)
    attack = AttackResult(
        name="fgsm", view="as_is", settings={"loss": "ce"}, robust_accuracy=accuracy, seconds=0.5
    )
    check = Check(
        id="G1", title="t", value=0.0, threshold=0.01, verdict="pass", explanation="e", remedy="r"
    )
    return RobustnessReport(
        title="stage",
        model={"checkpoint": "c"},
        data={"fingerprint": "f"},
        norm="linf",
        epsilon=8 / 255,
        clean_accuracy=accuracy,
        naive_robust_accuracy=accuracy,
        robust_accuracy=accuracy,
        attacks=(attack,),
        metrics={"attack_robustness": 1.0},
        curve=((0.0, accuracy), (8 / 255, accuracy)),
        checks=(check,),
        trust="trusted",
        costs={"parameters": 1, "flops": 2, "size_bytes": 3},
        settings={},
        versions={},
        seconds=1.0,
    )


SAMPLES = pa.table({"id": ["a", "b"], "label": [0, 1], "robust": [1.0, 0.0]})


def test_wilson_interval():
    """Half-widths at one half as every textbook has them, and an end in closed form."""
    for num_images, half_width in ((100, 0.098), (500, 0.044), (1000, 0.031), (10_000, 0.010)):
        accuracy = Accuracy.of(0.5, num_images)
        assert (accuracy.high - accuracy.low) / 2 == pytest.approx(half_width, abs=2e-3)
    nothing = Accuracy.of(0.0, 10)
    assert (nothing.low, nothing.high) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert Accuracy.of(1.0, 10).low == pytest.approx(1 - 0.27753, abs=1e-5)


@pytest.mark.parametrize(("value", "num_images"), [(0.5, 0), (1.1, 5), (-0.1, 5)])
def test_impossible_accuracy_is_refused(value, num_images):
    with pytest.raises(ValueError, match="accuracy"):
        Accuracy.of(value, num_images)


def test_report_survives_a_file(report, tmp_path):
    save_report(report, SAMPLES, tmp_path / "report")
    loaded, samples = load_report(tmp_path / "report")
    assert loaded == report
    assert samples.equals(SAMPLES)


def test_missing_and_foreign_reports_are_refused(report, tmp_path):
    with pytest.raises(ValueError, match="holds no report"):
        load_report(tmp_path)
    save_report(report, SAMPLES, tmp_path)
    values = json.loads((tmp_path / REPORT).read_text())
    (tmp_path / REPORT).write_text(json.dumps({**values, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        load_report(tmp_path)
