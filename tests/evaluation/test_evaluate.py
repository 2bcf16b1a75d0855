"""Evaluation of a linear model whose robust accuracy is known exactly, honest and concealed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.data.shards import read_index
from components.defences import DEFENCES
from components.evaluation.attack import InvalidAttack, Subject
from components.evaluation.diagnostics import judge_trust
from components.evaluation.evaluate import evaluate, evaluate_robustness
from components.evaluation.report import PAGE, load_report
from components.models.build import ModelSpec, build_model
from components.models.checkpoint import save_checkpoint
from components.progress import Progress
from components.tracking import Run

GradientConcealment, RandomResizePad = (
    DEFENCES[name] for name in ("gradient_concealment", "random_resize_pad")
)
EXACT, CLEAN = 0.44, 0.8575  # at 8 / 255 of the linear problem


def mean(shares: torch.Tensor) -> float:
    return float(shares.double().mean())


def test_linear_model_gets_its_exact_robust_accuracy(measure):
    measured = measure()
    assert mean(measured.subject.clean_shares) == CLEAN
    assert mean(measured.robust) == mean(measured.naive) == EXACT
    assert {o.name: mean(o.shares) for o in measured.outcomes}["fgsm"] == pytest.approx(0.51)


def test_concealment_looks_robust_naively_and_is_not(measure):
    measured = measure(GradientConcealment)
    assert mean(measured.naive) > 0.7
    assert mean(measured.robust) == pytest.approx(EXACT, abs=0.005)


def test_robust_is_the_worst_case_of_each_image(measure):
    measured = measure(GradientConcealment)
    worst = torch.stack([outcome.shares for outcome in measured.outcomes]).amin(0)
    assert torch.equal(measured.robust, torch.minimum(worst, measured.subject.clean_shares))
    assert mean(measured.robust) <= min(mean(outcome.shares) for outcome in measured.outcomes)


def test_curve_falls_and_meets_the_report(measure):
    for wrap in (None, GradientConcealment):
        measured = measure(wrap)
        shares = [mean(left) for _, left in measured.curve]
        assert [epsilon for epsilon, _ in measured.curve] == sorted({e for e, _ in measured.curve})
        assert shares == sorted(shares, reverse=True)
        at_epsilon = dict(measured.curve)[measured.subject.settings.epsilon]
        assert mean(at_epsilon) == pytest.approx(mean(measured.robust), abs=0.005)


def test_randomised_model_is_judged_on_fresh_draws(lin400, settings):
    torch.manual_seed(0)
    model = RandomResizePad(lin400.model, min_size=0.7).eval()
    once = replace(settings, draws=20, suite=({"name": "pgd", "steps": 3},))
    images, labels = lin400.images[:64], lin400.labels[:64]
    measured = evaluate_robustness(model, images, labels, once)
    shares = measured.subject.clean_shares
    assert bool(((shares > 0) & (shares < 1)).any())
    assert torch.equal(measured.robust, evaluate_robustness(model, images, labels, once).robust)
    assert {outcome.view for outcome in measured.outcomes} == {"as_is", "honest"}


def test_result_does_not_depend_on_batch_size(lin400, settings, measure):
    small = evaluate_robustness(
        lin400.model, lin400.images, lin400.labels, replace(settings, batch_size=7)
    )
    for one, other in zip(small.outcomes, measure().outcomes, strict=True):
        assert torch.equal(one.shares, other.shares)


def test_global_random_state_is_left_alone(lin400, settings):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    evaluate_robustness(lin400.model, lin400.images[:8], lin400.labels[:8], settings)
    assert torch.equal(torch.random.get_rng_state(), before)


WRONG_SUITES = {
    "suite must name at least one attack": (),
    "two attacks alike": ({"name": "pgd", "steps": 20}, {"name": "pgd", "restarts": 20}),
    "takes epsilon from the threat model": ({"name": "pgd", "epsilon": 0.001},),
}


@pytest.mark.parametrize(("message", "suite"), WRONG_SUITES.items(), ids=WRONG_SUITES)
def test_suites_that_could_mislead_are_refused(settings, message, suite):
    with pytest.raises(ValueError, match=message):
        replace(settings, suite=suite)


@pytest.mark.parametrize("weak", [{"name": "fgsm"}, {"name": "pgd", "steps": 1}])
def test_a_weak_suite_is_not_trusted(lin400, settings, weak):
    measured = evaluate_robustness(
        lin400.model, lin400.images, lin400.labels, replace(settings, suite=(weak,))
    )
    assert mean(measured.robust) > EXACT + 0.05
    assert judge_trust(measured.checks) == "masked"


def test_progress_reaches_its_total(lin400, settings):
    done, images = [], lin400.images[:8]
    run = Run("evaluate")
    run.progress = lambda total, unit: done.append(Progress("evaluate", total, unit)) or done[0]
    evaluate_robustness(lin400.model, images, lin400.labels[:8], settings, run)
    assert done[0].done == done[0].total


def test_an_attack_that_leaves_the_ball_is_found_out(lin400, settings, monkeypatch):
    def cheat(model, images, labels, *, epsilon, norm, seed=0):
        return (images + 2 * epsilon).clamp(0, 1)

    monkeypatch.setitem(ATTACKS, "cheat", cheat)
    subject = Subject(lin400.model, lin400.images, lin400.labels, settings)
    standing = torch.ones(len(lin400.labels), dtype=torch.bool)
    with pytest.raises(InvalidAttack, match="cheat left its threat model"):
        subject.attack({"name": "cheat"}, "as_is", epsilon=0.1, standing=standing)


def test_logits_that_are_no_numbers_are_refused(lin400, settings):
    class Broken(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :4] * torch.nan

    with pytest.raises(ValueError, match="not finite"):
        evaluate_robustness(Broken(), lin400.images, lin400.labels, settings)


@pytest.fixture
def checkpoint(tmp_path, digits_shards):
    index = read_index(digits_shards)
    torch.manual_seed(0)
    model = build_model(
        ModelSpec(
            backbone={"name": "lenet5"},
            classes=index.classes,
            image_shape=index.image_shape,
            mean=index.mean,
            deviation=index.deviation,
        )
    )
    save_checkpoint(model, tmp_path / "checkpoint", provenance={"stage": "untrained"})
    return tmp_path / "checkpoint"


def test_checkpoint_gets_report_samples_and_page(checkpoint, digits_shards, settings, tmp_path):
    target = tmp_path / "report"
    few = replace(settings, num_images=30)
    report = evaluate(few, data=digits_shards, checkpoint=checkpoint, target=target)
    loaded, samples = load_report(target)
    assert loaded.figures() == report.figures() and loaded.title == "untrained"
    assert samples.num_rows == report.clean_accuracy.num_images == 30
    assert len(set(samples["id"].to_pylist())) == 30
    assert np.mean(samples["robust"]) == pytest.approx(report.robust_accuracy.value)
    assert max(samples["norm"].to_pylist()) <= few.epsilon * (1 + 1e-5)
    assert report.costs["parameters"] == 431_080
    assert "untrained" in (target / PAGE).read_text(encoding="utf-8")


def test_model_of_other_classes_is_refused(checkpoint, digits_shards, settings, tmp_path):
    words = (checkpoint / "model.json").read_text().replace('"9"', '"nine"')
    (checkpoint / "model.json").write_text(words)
    with pytest.raises(ValueError, match="the model knows the classes"):
        evaluate(settings, data=digits_shards, checkpoint=checkpoint, target=tmp_path / "report")
