"""Modes measured on real models, and the table against numbers worked out by hand."""

import json
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from components.evaluation.config import EvaluationConfig
from components.evaluation.report import Accuracy, load_report
from components.models.build import ModelSpec, build_model
from components.models.checkpoint import save_checkpoint
from components.pruning.prune import GATES
from components.study.config import ReproductionConfig
from components.study.modes import COLUMNS_FILE, measure_modes
from components.study.published import COLUMNS, MODES, PUBLISHED
from components.study.reproduction import load_reproduction, reproduce, save_reproduction
from components.study.reproduction_page import PAGE, write_reproduction_page

PGD = {"name": "pgd", "epsilon": 0.1, "steps": 2, "keep": "last"}
SETTINGS = ReproductionConfig(table="mnist", attack=PGD, num_images=40, seeds=(0, 1))
EVALUATION = EvaluationConfig(
    epsilon=0.1, suite=({"name": "fgsm"},), num_images=20, survivors_only=False
)
WIDTHS = {"source": [20, 50, 800, 500], "at": [20, 50, 800, 500], "anp_vs": [13, 20, 99, 30]}


@pytest.fixture(scope="module")
def measured(digits_shards, tmp_path_factory):
    """Two seeds of two modes, each with random weights of its own."""
    folder = tmp_path_factory.mktemp("modes")
    classes = tuple("0123456789")
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for mode, widths in WIDTHS.items():
                spec = ModelSpec(
                    backbone={"name": "lenet5", "widths": widths},
                    classes=classes,
                    image_shape=(1, 28, 28),
                    mean=(0.3,),
                    deviation=(0.4,),
                )
                save_checkpoint(build_model(spec), folder / mode, provenance={"stage": mode})
        (folder / "anp_vs" / GATES).write_text('{"conv1": [0.0, 0.5, 1.0, 0.97]}')
        measure_modes(
            SETTINGS,
            EVALUATION,
            data=digits_shards,
            models={mode: folder / mode for mode in ("at", "anp_vs")},
            source=folder / "source",
            target=folder / str(seed),
        )
    return [folder / "0", folder / "1"]


def columns(folder, mode):
    return json.loads((folder / mode / COLUMNS_FILE).read_text())


def test_every_mode_has_its_columns_and_an_honest_report(measured):
    pruned = columns(measured[0], "anp_vs")
    assert pruned["memory_percent"] == pytest.approx(9.496, abs=1e-3)  # the published example
    assert pruned["flops_ratio"] == pytest.approx(3.751, abs=1e-3)
    assert pruned["sparsity_percent"] == pytest.approx(88.175, abs=1e-3)
    assert pruned["gates"] == {"conv1": [0.0, 0.5, 1.0, 0.97]}
    assert columns(measured[0], "at")["gates"] == {}
    assert pruned["attacked_images"] == SETTINGS.num_images
    report, samples = load_report(measured[0] / "anp_vs")
    assert report.title == "anp_vs" and samples.num_rows == 20


def test_rows_are_means_over_the_seeds_in_the_unit_of_the_tables(measured):
    found = reproduce("mnist", measured)
    assert [row.mode for row in found.rows] == ["at", "anp_vs"]
    assert (found.seeds, found.num_images, found.attacks) == (2, 20, ("fgsm",))
    for row in found.rows:
        each = [columns(folder, row.mode) for folder in measured]
        for name in COLUMNS:
            scale = 100 if name.endswith("_accuracy") else 1
            values = [scale * values[name] for values in each]
            assert row.ours[name].mean == pytest.approx(statistics.fmean(values))
            assert row.ours[name].deviation == pytest.approx(statistics.stdev(values))
        reports = [load_report(folder / row.mode)[0] for folder in measured]
        assert row.robust.mean == Accuracy.of(
            statistics.fmean(r.robust_accuracy.value for r in reports), 20
        )
        assert row.published == PUBLISHED["mnist"][row.mode]


def test_a_reproduction_survives_its_file(measured, tmp_path):
    found = reproduce("mnist", measured)
    save_reproduction(found, tmp_path)
    assert load_reproduction(tmp_path) == found
    text = (tmp_path / "reproduction.json").read_text()
    (tmp_path / "reproduction.json").write_text(text.replace('"schema": 2', '"schema": 9'))
    with pytest.raises(ValueError, match="has schema 9, this version reads 2"):
        load_reproduction(tmp_path)


def test_seeds_that_measured_other_modes_are_refused(measured, tmp_path):
    with pytest.raises(ValueError, match=r"lacks the modes \['at', 'anp_vs'\]"):
        reproduce("mnist", [measured[0], tmp_path])


class Cells(HTMLParser):
    """The words of every table row, and all addresses a page refers to."""

    def __init__(self):
        super().__init__()
        self.rows, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        if self.rows and data.strip():
            self.rows[-1].append(data.strip())


def test_page_shows_ours_beside_the_published_and_needs_no_network(measured, tmp_path):
    found = reproduce("mnist", measured)
    write_reproduction_page(found, tmp_path / PAGE)
    page = Cells()
    page.feed((tmp_path / PAGE).read_text(encoding="utf-8"))
    assert not page.addresses
    (row,) = (cells for cells in page.rows if cells[0] == "ANP-VS" and "91.31" in cells)
    ours = found.rows[1].ours
    assert row[1].startswith(f"{ours['clean_accuracy'].mean:.2f} ± ") and row[2] == "99.05"
    assert row[7].startswith(f"{ours['white_box_vulnerability'].mean:.3f} ± ") and row[8] == "0.017"
    assert "3.75 ± 0.00" in row and "10.57" in row


def test_page_of_a_mode_without_published_numbers(measured, tmp_path):
    found = reproduce("mnist", measured)
    ablation = replace(found.rows[0], mode="at_vs", published=None)
    write_reproduction_page(replace(found, rows=(ablation,)), tmp_path / PAGE)
    assert "AT-VS" in (tmp_path / PAGE).read_text(encoding="utf-8")


def test_published_tables_are_whole():
    for rows in PUBLISHED.values():
        assert set(rows) == set(MODES) - {"at_vs", "anp"}
        assert all(len(row) == len(COLUMNS) for row in rows.values())
