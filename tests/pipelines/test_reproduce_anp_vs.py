"""The reproduction of ANP-VS: its steps for every seed, and a whole run."""

import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from components.evaluation.report import Accuracy
from components.pruning.config import PruningConfig
from components.study.published import COLUMNS, MODES, PUBLISHED
from components.study.reproduction import Figure, ModeRow, Reproduction, load_reproduction
from components.study.tabulate import Repeated
from components.training.config import TrainingConfig
from pipelines.compile import compile_pipeline
from pipelines.graph import read_steps
from pipelines.recipes import RECIPES
from pipelines.reproduction_table import reproduction_table
from pipelines.workspace import Workspace

TINY = RECIPES["anp_vs_tiny"]
TRAINED = ("standard", "source", "at", "at-vs", "at-bnn", "trades", "pretrained-at")
PRUNED = ("bp", "admm", "anp", "anp-vs")


def test_every_mode_has_a_step_for_every_seed(tmp_path):
    recipe = replace(TINY, reproduction=replace(TINY.reproduction, seeds=(0, 7)))
    compile_pipeline("reproduce_anp_vs", recipe, tmp_path / "pipeline.yaml")
    steps = read_steps(tmp_path / "pipeline.yaml")
    assert steps[0] == "prepare-data" and steps[-1] == "tabulate"
    for seed in (0, 7):
        expected = {f"train-{mode}-{seed}" for mode in TRAINED}
        expected |= {f"prune-{mode}-{seed}" for mode in PRUNED}
        assert expected <= set(steps) and f"measure-{seed}" in steps
    assert len(steps) == 2 + 2 * 12


def test_seeds_differ_between_repetitions_and_the_source_is_nobody_else():
    recipe = replace(TINY, reproduction=replace(TINY.reproduction, seeds=(0, 7)))
    seeds = []
    for item in recipe.arguments()["repetitions"]:
        own = {json.loads(item[mode])["seed"] for mode in MODES}
        assert len(own) == 1
        seeds += [*own, json.loads(item["source"])["seed"]]
    assert (seeds[0], seeds[2]) == (0, 7) and len(set(seeds)) == 4


@pytest.mark.parametrize("name", ["anp_vs_mnist", "anp_vs_mnist_small", "anp_vs_cifar10"])
def test_modes_are_set_as_specified(name):
    recipe = RECIPES[name]
    assert recipe.bp.attack is None and recipe.bp.kl_weight == 1
    assert recipe.anp == replace(recipe.anp_vs, vulnerability_weight=0.0)
    assert recipe.anp_vs.gate_loss == "adversarial" and recipe.anp_vs.vulnerability_weight > 0
    assert recipe.at.objective["clean_share"] == pytest.approx(1 / 3)
    assert recipe.at_vs.objective["weight"] == recipe.anp_vs.vulnerability_weight
    assert recipe.at_bnn.weight_decay == 0 and recipe.pretrained_at.backbone is None
    assert recipe.trades.objective["beta"] == (6 if "cifar" in name else 1)
    sections = recipe.sections().values()
    kinds = (TrainingConfig, PruningConfig)
    epsilons = {
        (s.attack if isinstance(s, PruningConfig) else s.objective.get("attack", {})).get("epsilon")
        for s in sections
        if isinstance(s, kinds) and s not in (recipe.bp, recipe.standard)
    }
    assert epsilons == {recipe.evaluation.epsilon, recipe.reproduction.attack["epsilon"]}


def test_wrong_sections_are_refused():
    with pytest.raises(ValueError, match=r"at\.backbone is needed"):
        replace(TINY, at=replace(TINY.at, backbone=None))
    with pytest.raises(ValueError, match=r"are reproduction\.seeds, leave their own out"):
        replace(TINY, bp=replace(TINY.bp, seed=3))


@pytest.mark.parametrize("seeds", [1, 3])
def test_terminal_table_fits_eighty_columns(seeds):
    repeated = Repeated.of([Accuracy.of(0.987, 2000)] * seeds)
    numbers = (99.99, 99.99, 99.99, 0.412, 0.412, 100.0, 10.57, 84.16)
    spread = (0.0, 10.0, 20.0)[:seeds]
    rows = tuple(
        ModeRow(
            mode=mode,
            ours={
                name: Figure(values=tuple(number * (1 - s / 100) for s in spread))
                for name, number in zip(COLUMNS, numbers, strict=True)
            },
            published=PUBLISHED["mnist"].get(mode),
            robust=repeated,
            naive=repeated,
            trust="trusted",
            layers={},
            gates={},
            units={},
        )
        for mode in MODES
    )
    found = Reproduction(
        table="mnist",
        norm="linf",
        epsilon=0.3,
        attacks=("apgd", "apgd_targeted"),
        num_images=2000,
        column_images=2000,
        seeds=seeds,
        rows=rows,
    )
    console = Console(width=80, file=StringIO())
    console.print(reproduction_table(found, {"trusted": "green"}))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert all(title.split()[-1] in text for title in MODES.values())
    assert "…" not in text and "91.3" in text


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    bartizan = Path(sys.executable).with_name("bartizan")
    run = subprocess.run(
        [bartizan, "run", "--recipe", "anp_vs_tiny"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr + run.stdout
    folder = Workspace(tmp_path / ".bartizan").find_run()
    (table,) = folder.folders_with("reproduction.json")
    found = load_reproduction(table)
    assert [row.mode for row in found.rows] == list(MODES)
    by_mode = {row.mode: row for row in found.rows}
    assert by_mode["anp_vs"].ours["sparsity_percent"].mean > 0
    assert by_mode["anp_vs"].gates and by_mode["bp"].gates and not by_mode["at"].gates
    assert by_mode["admm"].ours["zero_weights_percent"].mean == pytest.approx(80, abs=1)
    assert (folder.path / "reproduction.html").exists()
    assert "ANP-VS" in run.stdout and "91.3" in run.stdout
