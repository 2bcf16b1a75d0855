"""From trained models to a champion: gate, override, rollback, verification, comparison."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from components import tracking
from components.data.config import DataConfig
from components.data.prepare import prepare
from components.evaluation.config import EvaluationConfig
from components.evaluation.evaluate import evaluate
from components.evaluation.page import explain_trust
from components.evaluation.report import PAGE, load_report
from components.models.checkpoint import load_checkpoint
from components.models.costs import costs
from components.pruning.config import PruningConfig
from components.pruning.prune import prune
from components.registry.champions import find_champion
from components.registry.compare import count_changes
from components.registry.comparison import compare_all
from components.registry.config import FetchConfig, PromotionConfig
from components.registry.entries import measure_missing, read_entries
from components.registry.fetch import fetch
from components.registry.models import facts_of, find_version, hash_report, judge
from components.registry.promote import promote
from components.registry.verdict import save_verdict
from components.registry.verify import verify
from components.tracking import Run
from components.training.config import TrainingConfig
from components.training.train import train
from pipelines.__main__ import app

pytestmark = pytest.mark.filterwarnings("ignore:.*An input example was not provided")

SETTINGS = PromotionConfig(model_name="digits", maximum_clean_loss=0.05)
GATES = PruningConfig(
    attack=None,
    vulnerability_weight=0.0,
    epochs=1,
    initial_keep_probability=0.3,
    gate_learning_rate=0.5,
)


@pytest.fixture
def register(store, hardened, tmp_path):
    """Let a model challenge the champion; gives its version."""

    def challenge(name, **paths):
        given = SimpleNamespace(
            checkpoint=hardened / name / "checkpoint",
            report=hardened / name / "report",
            verdict=tmp_path / f"verdict-{name}",
        )
        save_verdict(judge(SETTINGS, given.report), given.verdict)
        with tracking.step_run("promote-model", "promotion", SETTINGS):
            return promote(SETTINGS, **vars(given))

    return challenge


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_concealment_on_the_champions_own_weights_is_refused(store, register, hardened):
    assert register("strong") == find_champion("digits") == "1"
    version = register("concealed")
    champion, _ = load_report(hardened / "strong" / "report")
    concealed, _ = load_report(hardened / "concealed" / "report")
    assert concealed.clean_accuracy == champion.clean_accuracy
    naive = concealed.naive_robust_accuracy.value
    assert naive > champion.robust_accuracy.value + 0.15
    assert concealed.trust == "masked"
    assert concealed.robust_accuracy.value <= champion.robust_accuracy.value + 0.02

    assert find_champion("digits") == "1"
    verdict = find_version("digits", version).tags["verdict"]
    assert verdict.startswith("not promoted: The challenger's robust accuracy is masked")
    page = (hardened / "concealed" / "report" / PAGE).read_text(encoding="utf-8")
    sentence = explain_trust(concealed)
    assert len(re.findall(r"[.!?](?:\s|$)", sentence)) == 1
    assert f"{naive:.1%}" in sentence and "it hides the way to fool it" in sentence
    assert sentence in page

    refused = run("promote", "digits", version)
    assert refused.exit_code == 1
    assert "is masked" in refused.output and find_champion("digits") == "1"
    for words in (("--override",), ("--reason", "a demonstration")):
        assert run("promote", "digits", version, *words).exit_code == 2
    loose = run("promote", "digits", version, "--set", "required_trust=doubtful")
    assert loose.exit_code == 1 and find_champion("digits") == "1"

    forced = run("promote", "digits", version, "--override", "--reason", "a demonstration")
    assert forced.exit_code == 0, forced.output
    assert find_champion("digits") == version
    assert run("rollback", "digits").output == "digits 1 is the champion again\n"
    tags = find_version("digits", version).tags
    assert tags["override.2"] == "a demonstration"
    assert tags["verdict"] == verdict
    assert run("rollback", "digits").exit_code == 2


def stored(tmp_path, pattern):
    """Find a file of the only version in the artifact store."""
    (found,) = (tmp_path / "kept").rglob(pattern)
    return found


def test_an_honest_version_is_verified_bit_for_bit(store, register, digits_shards):
    register("strong")
    done = run("verify", "models:/digits@champion", "--data", digits_shards)
    assert done.exit_code == 0, done.output
    assert "bit for bit: all 100 images ended as recorded" in done.output
    assert "its numbers were reproduced" in done.output


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("weights.safetensors", "weights: the weights have the hash"),
        ("samples.parquet", "samples.parquet: samples.parquet is not the file"),
        ("report.html", "report.html: report.html is not the file that was registered"),
    ],
)
def test_a_changed_file_is_called_out(store, register, tmp_path, digits_shards, file, words):
    register("strong")
    flip_a_bit(stored(tmp_path, file))
    done = run("verify", "models:/digits/1", "--data", digits_shards)
    assert done.exit_code == 1
    (failed,) = (line for line in done.output.splitlines() if line.startswith("✗"))
    assert failed.startswith(f"✗ {words}")
    assert done.output.endswith("models:/digits/1 could not be verified\n")


def forge(store, tmp_path, change):
    """Change the stored report, and the registry's hashes and tags with it."""
    path = stored(tmp_path, "report.json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    report, _ = load_report(path.parent)
    hashes = {f"sha256.{name}": text for name, text in hash_report(path.parent).items()}
    for key, text in {**facts_of(report), **hashes}.items():
        store.set_model_version_tag("digits", "1", key, text)


def failures(data):
    found = verify(find_version("digits", "1"), data)
    return [f"{rule.name}: {rule.reason}" for rule in found if not rule.passed]


def test_changed_settings_are_called_out_by_hash_and_by_repetition(
    store, register, tmp_path, digits_shards
):
    register("strong")

    def fewer_steps(values):
        values["settings"]["suite"][1]["steps"] = 5

    path = stored(tmp_path, "report.json")
    honest = path.read_text()
    values = json.loads(honest)
    fewer_steps(values)
    path.write_text(json.dumps(values))
    assert failures(digits_shards) == [
        "report.json: report.json is not the file that was registered"
    ]
    path.write_text(honest)
    forge(store, tmp_path, fewer_steps)
    (first, *_) = failures(digits_shards)
    assert first.startswith(
        "attacks: The attacks differ: only the registered evaluation met apgd-20"
    )


def test_forged_numbers_do_not_come_out_again(store, register, tmp_path, digits_shards):
    register("strong")

    def flatter(values):
        values["robust_accuracy"]["value"] = 0.99

    forge(store, tmp_path, flatter)
    (only,) = failures(digits_shards)
    assert re.fullmatch(r"figures: robust_accuracy is 0\.\d{4}, recorded was 0.9900", only)
    store.set_model_version_tag("digits", "1", "robust_accuracy", "1.0000")
    assert failures(digits_shards) == [
        "tags: robust_accuracy is 1.0000 in the registry and 0.9900 in the report"
    ]


def test_other_shards_are_called_out(store, register, tmp_path):
    register("strong")
    prepare(DataConfig(source={"name": "digits"}, image_size=28, seed=1), tmp_path / "other")
    (only,) = failures(tmp_path / "other")
    assert only.startswith("data: these shards hold the data")


def test_pruned_versions_are_versions_like_any_other(store, digits_shards, tmp_path):
    def prune_and_register(initial, name):
        folder = tmp_path / name
        paths = {part: folder / part for part in ("checkpoint", "report", "verdict")}
        prune(GATES, data=digits_shards, initial=initial, target=paths["checkpoint"])
        suite = EvaluationConfig(epsilon=0.1, suite=({"name": "fgsm"},), num_images=40)
        evaluate(suite, data=digits_shards, checkpoint=paths["checkpoint"], target=paths["report"])
        save_verdict(judge(SETTINGS, paths["report"]), paths["verdict"])
        with tracking.step_run("promote-model", "promotion", SETTINGS):
            return promote(SETTINGS, **paths), load_checkpoint(paths["checkpoint"])

    full = tmp_path / "full"
    residual = TrainingConfig(
        backbone={"name": "wide_resnet", "depth": 10, "widen_factor": 1},
        objective={"name": "cross_entropy"},
        epochs=1,
        learning_rate=1e-2,
    )
    train(residual, data=digits_shards, target=full, run=Run("full"))
    first, once = prune_and_register(full, "once")
    assert (first, find_champion("digits")) == ("1", "1")

    fetch(FetchConfig(model="models:/digits@champion"), tmp_path / "fetched")
    second, twice = prune_and_register(tmp_path / "fetched", "twice")
    parameters = [costs(model)["parameters"] for model in (load_checkpoint(full), once, twice)]
    assert parameters[0] > parameters[1] > parameters[2]
    for version in (first, second):
        done = run("verify", f"models:/digits/{version}", "--data", digits_shards)
        assert done.exit_code == 0 and "all 40 images ended as recorded" in done.output, done.output


def test_versions_side_by_side(store, register, hardened, tmp_path, digits_shards, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("weak", "strong", "concealed"):
        register(name)
    words = ("compare", "digits", "--data", digits_shards, "--json", tmp_path / "c.json")
    done = run(*words, "--versions", "champion,1,3", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.output.splitlines() if "/" not in line) <= 80
    values = json.loads((tmp_path / "c.json").read_text())
    assert [version["version"] for version in values["versions"]] == ["2", "1", "3"]
    for version, name in zip(values["versions"], ("strong", "weak", "concealed"), strict=True):
        report, _ = load_report(hardened / name / "report")
        assert version["robust_accuracy"][0] == report.robust_accuracy.value
        assert version["trust"] == report.trust
        assert f"{report.clean_accuracy.value:.1%}" in done.output
    samples = [load_report(hardened / name / "report")[1] for name in ("strong", "weak")]
    strong, weak = (s.sort_by("id")["robust"].to_numpy() for s in samples)
    pair = values["pairs"][0]
    assert (pair["better"], pair["worse"]) == ((weak > strong).sum(), (weak < strong).sum())
    expected = binomtest(pair["better"], pair["better"] + pair["worse"]).pvalue
    assert pair["p_value"] == pytest.approx(expected)
    epochs = [v for k, v in values["differing_settings"].items() if k.endswith("epochs")]
    assert {"2": "6", "1": "4", "3": "–"} in epochs
    assert {version["lineage"]["stage"] for version in values["versions"]} == {
        *("strong", "weak", "concealed")
    }
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "it hides the way to fool it" in page
    assert f"{(weak < strong).sum()} that version 2 withstands and 1 does not" in page


def test_a_missing_evaluation_is_named_and_made(store, register, tmp_path, hardened, digits_shards):
    register("strong")
    other = EvaluationConfig(epsilon=0.05, suite=({"name": "fgsm"},), num_images=60)
    shutil.copytree(hardened / "weak" / "checkpoint", tmp_path / "weak" / "checkpoint")
    evaluate(
        other,
        data=digits_shards,
        checkpoint=tmp_path / "weak" / "checkpoint",
        target=tmp_path / "weak" / "report",
    )
    register(tmp_path / "weak")
    words = ("compare", "digits", "--versions", "1,2", "-o", tmp_path / "out")
    named = run(*words)
    told = " ".join(named.output.split())
    assert "Version 2 cannot be compared with 1" in told
    assert "Version 2 was measured on 60 images, version 1 on 100" in told
    assert "epsilon 0.05, version 1 in linf with 0.1" in told
    assert run(*words, "--evaluate").exit_code == 2
    entries = read_entries("digits", ["1", "2"])
    (pair,) = compare_all(measure_missing(entries, digits_shards, tmp_path / "made"))
    assert not pair.missing
    samples = (
        load_report(hardened / "strong" / "report")[1],
        load_report(hardened / "weak" / "report")[1],
    )
    assert (pair.worse, pair.better) == count_changes(*samples)


WRONG = (
    ("compare nobody", "there is no registered model nobody; there are digits"),
    ("rollback nobody", "there is no registered model nobody; there are digits"),
    ("compare digits --versions 9", "digits has no version 9; it has 1, champion"),
    ("promote digits 1", "digits 1 is the champion already"),
    ("rollback digits", "digits has no earlier champion to go back to"),
    ("verify digits --data .", "a version is models:/NAME@alias or"),
    ("verify models:/digits/1 --data .", "holds no prepared data"),
    ("promote digits 1 --set minimum_gain=2", "must be at least 0 and below 1"),
    ("promote digits 1 --override", "--override and --reason belong together"),
    ("compare digits --evaluate", "--evaluate needs --data"),
)


def test_what_is_wrong_is_said_in_one_line(store, register, tmp_path, monkeypatch):
    register("strong")
    for words, said in WRONG:
        done = run(*words.split())
        assert done.exit_code == 2, words
        assert said in done.output
        assert len(done.stderr.splitlines()) == 1
    monkeypatch.delenv(tracking.URI)
    assert "there is no registry" in run("rollback", "digits").stderr
