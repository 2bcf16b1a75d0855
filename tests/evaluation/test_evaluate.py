"""Evaluation of a linear model whose robust accuracy is known exactly, honest and concealed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.data.index import read_index
from components.defences import DEFENCES
from components.evaluation.diagnostics import judge_trust
from components.evaluation.evaluate import evaluate, evaluate_robustness, read_candidate
from components.evaluation.measure import measure as measure_model
from components.evaluation.report import PAGE, load_report
from components.evaluation.subject import InvalidAttack, Subject
from components.models.build import ModelSpec, build_model
from components.models.checkpoint import save_checkpoint
from components.progress import Progress
from components.tracking import Run

GradientConcealment, RandomResizePad = (
    DEFENCES[name] for name in ("gradient_concealment", "random_resize_pad")
)
EXACT, CLEAN = 0.44, 0.8575  # at 8 / 255 of the linear problem
EXACT_EVERYWHERE = {
    ("linf", 4 / 255): 0.7050,
    ("linf", 8 / 255): 0.4400,
    ("l2", 0.25): 0.6000,
    ("l2", 0.5): 0.2475,
    ("l1", 2.0): 0.4725,
}


def mean(shares: torch.Tensor) -> float:
    return float(shares.double().mean())


@pytest.mark.parametrize(("threat", "exact"), EXACT_EVERYWHERE.items(), ids=str)
def test_standard_is_exact_on_the_linear_model(lin400, threat, exact):
    (norm, epsilon) = threat
    square = {"name": "square", "queries": 100}
    report = evaluate_robustness(*lin400, epsilon=epsilon, norm=norm, suite=("fast", "fab", square))
    assert report.robust_accuracy.value == report.naive_robust_accuracy.value == exact
    assert report.clean_accuracy.value == CLEAN
    assert report.trust == "trusted", [c for c in report.checks if c.verdict != "pass"]


def test_each_attack_s_own_number(measure):
    measured = measure()
    assert mean(measured.subject.clean_shares) == CLEAN
    assert mean(measured.robust) == mean(measured.naive) == EXACT
    assert {o.name: mean(o.shares) for o in measured.outcomes}["fgsm"] == pytest.approx(0.51)


def test_in_sequence_attacks_meet_survivors_alone(lin400, settings, measure):
    measured = measure_model(*lin400, replace(settings, survivors_only=True))
    right = int(measured.subject.right.sum())
    standing = right
    for outcome in measured.outcomes:
        assert int(outcome.attacked.sum()) == standing
        standing -= int(outcome.fooled.sum())
    assert torch.equal(measured.robust, measure().robust)


def test_concealment_looks_robust_naively_and_is_not(measure):
    measured = measure(GradientConcealment)
    assert mean(measured.naive) > 0.7
    assert mean(measured.robust) == pytest.approx(EXACT, abs=0.005)


def test_robust_is_the_worst_case_of_each_image(measure):
    measured = measure(GradientConcealment)
    worst = torch.stack([outcome.shares for outcome in measured.outcomes]).amin(0)
    assert torch.equal(measured.robust, torch.minimum(worst, measured.subject.clean_shares))
    assert mean(measured.robust) <= min(mean(outcome.shares) for outcome in measured.outcomes)


def test_strongest_images_are_what_the_report_says(measure, lin400):
    measured = measure()
    with torch.no_grad():
        right = lin400.model(measured.strongest.images).argmax(1) == lin400.labels
    assert torch.equal(right & measured.subject.right, measured.robust > 0)
    assert torch.equal(measured.strongest.shares, measured.robust)


def test_curve_falls_and_meets_the_report(measure):
    for wrap in (None, GradientConcealment):
        measured = measure(wrap)
        shares = [mean(left) for _, left in measured.curve]
        assert [epsilon for epsilon, _ in measured.curve] == sorted({e for e, _ in measured.curve})
        assert shares == sorted(shares, reverse=True)
        at_epsilon = dict(measured.curve)[measured.subject.settings.epsilon]
        assert mean(at_epsilon) == pytest.approx(mean(measured.robust), abs=0.005)


def test_curve_is_exact_on_the_linear_model(measure):
    exact = {2: 0.785, 4: 0.705, 8: 0.44, 16: 0.095}
    curve = {round(255 * epsilon): mean(left) for epsilon, left in measure().curve}
    assert {k: curve[k] for k in exact} == pytest.approx(exact, abs=1e-6)


def test_distances_are_those_of_images_that_fool(measure):
    measured = measure()
    distances, subject = measured.distances, measured.subject
    assert not distances[~subject.right].any() and bool((distances[subject.right] > 0).all())
    assert bool((distances[measured.robust == 0] <= subject.settings.epsilon * (1 + 1e-5)).all())


def test_surrogate_s_images_are_tried_too(lin400, settings):
    weights = {"twin": lin400.model}
    one_step = replace(settings, suite=({"name": "fgsm"},))
    measured = measure_model(*lin400, one_step, surrogates=weights)
    assert [o.view for o in measured.outcomes] == ["as_is", "transfer/twin"]
    assert mean(measured.outcomes[1].shares) == EXACT == mean(measured.robust)
    assert mean(measured.naive) == pytest.approx(0.51)


def test_randomised_model_is_judged_on_fresh_draws(lin400, settings):
    torch.manual_seed(0)
    model = RandomResizePad(lin400.model, min_size=0.7).eval()
    once = replace(settings, draws=20, suite=({"name": "pgd", "steps": 3},))
    images, labels = lin400.images[:64], lin400.labels[:64]
    measured = measure_model(model, images, labels, once)
    shares = measured.subject.clean_shares
    assert bool(((shares > 0) & (shares < 1)).any()) and measured.distances is None
    assert torch.equal(measured.robust, measure_model(model, images, labels, once).robust)
    assert {outcome.view for outcome in measured.outcomes} == {"as_is", "honest"}


def test_result_does_not_depend_on_batch_size(lin400, settings, measure):
    few = lin400.model, lin400.images[:60], lin400.labels[:60]
    small = measure_model(*few, replace(settings, batch_size=7))
    for one, other in zip(small.outcomes, measure().outcomes, strict=True):
        assert torch.equal(one.shares, other.shares[:60])


def test_bfloat16_search_finds_as_much(lin400, settings, measure):
    fast = measure_model(*lin400, replace(settings, precision="bfloat16"))
    assert mean(fast.robust) == pytest.approx(mean(measure().robust), abs=0.005)
    assert fast.subject.precision == "bfloat16"
    with torch.no_grad():  # whatever the search believed, the model itself has the last word
        right = fast.subject.model(fast.strongest.images).argmax(1) == fast.subject.labels
    assert torch.equal(right & fast.subject.right, fast.robust > 0)


def test_global_random_state_is_left_alone(lin400, settings):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    measure_model(lin400.model, lin400.images[:8], lin400.labels[:8], settings)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("weak", [{"name": "fgsm"}, {"name": "pgd", "steps": 1}])
def test_a_weak_suite_is_not_trusted(lin400, settings, weak):
    measured = measure_model(*lin400, replace(settings, suite=(weak,)))
    assert mean(measured.robust) > EXACT + 0.05
    assert judge_trust(measured.checks) != "trusted"
    assert {check.id: check.verdict for check in measured.checks}["S4"] == "fail"


def test_progress_reaches_its_total(lin400, settings):
    done, images = [], lin400.images[:8]
    run = Run("evaluate")
    run.progress = lambda total, unit: done.append(Progress("evaluate", total, unit)) or done[0]
    measure_model(lin400.model, images, lin400.labels[:8], settings, run=run)
    assert done[0].done == done[0].total


def test_budget_stops_in_time_and_says_what_was_left_out(lin400):
    slow = {"name": "pgd", "steps": 100_000, "keep": "best"}
    report = evaluate_robustness(
        *lin400, epsilon=8 / 255, suite=("fgsm", slow), batch_size=50, budget_seconds=3
    )
    fgsm, pgd = report.attacks
    assert fgsm.left_out == 0 and pgd.left_out > 0
    assert report.robust_accuracy.value == pytest.approx(fgsm.robust_accuracy.value)
    assert report.trust != "trusted"
    assert {check.id: check.verdict for check in report.checks}["S6"] != "pass"


def test_an_attack_that_leaves_the_ball_is_found_out(lin400, settings, monkeypatch):
    def cheat(model, images, labels, *, epsilon, norm, seed=0):
        return (images + 2 * epsilon).clamp(0, 1)

    monkeypatch.setitem(ATTACKS, "cheat", cheat)
    subject = Subject(*lin400, settings)
    standing = torch.ones(len(lin400.labels), dtype=torch.bool)
    with pytest.raises(InvalidAttack, match="cheat left its threat model"):
        subject.attack({"name": "cheat"}, standing=standing, epsilon=0.1)


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
    fallen, robust = samples["fallen_to"].to_pylist(), samples["robust"].to_pylist()
    clean = samples["clean"].to_pylist()
    assert [bool(name) for name in fallen] == [c > r for c, r in zip(clean, robust, strict=True)]
    assert report.costs["parameters"] == 431_080
    assert "untrained" in (target / PAGE).read_text(encoding="utf-8")


def test_checkpoint_of_unknown_origin_is_called_by_its_folder(checkpoint):
    save_checkpoint(read_candidate(checkpoint).model, checkpoint, provenance={})
    assert read_candidate(checkpoint).title == "checkpoint"


def test_model_of_other_classes_is_refused(checkpoint, digits_shards, settings, tmp_path):
    words = (checkpoint / "model.json").read_text().replace('"9"', '"nine"')
    (checkpoint / "model.json").write_text(words)
    with pytest.raises(ValueError, match="the model knows the classes"):
        evaluate(settings, data=digits_shards, checkpoint=checkpoint, target=tmp_path / "report")


IMAGES, LABELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


class Answer(nn.Module):
    """A model that gives what a function makes of the linear model's logits."""

    def __init__(self, inner, answer):
        super().__init__()
        self.inner, self.answer = inner, answer

    def forward(self, images):
        return self.answer(self.inner(images))


BAD_INPUT = {
    "pixels of 0 to 255": ({"images": IMAGES * 255}, r"must be finite and in \[0, 1\], got"),
    "double": ({"images": IMAGES.double()}, "must be float32"),
    "pixels that are no numbers": ({"images": IMAGES * torch.nan}, "must be finite"),
    "labels out of range": ({"labels": LABELS}, "label"),
    "negative labels": ({"labels": LABELS % 4 - 1}, "class indices from 0, got -1"),
    "labels one-hot": ({"labels": torch.eye(6)}, "labels must be int64"),
    "one class": ({"answer": lambda logits: logits[:, :1]}, "class"),
    "logits that are no numbers": ({"answer": lambda logits: logits * torch.nan}, "finite"),
    "a tuple": ({"answer": lambda logits: (logits, logits)}, "tuple"),
    "no image": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "at least one image"),
    "epsilon of 8": ({"epsilon": 8}, "epsilon must be at most 1 for linf"),
    "no suite": ({"suite": ()}, "at least one attack"),
    "a suite that is none": ({"suite": ("fastest",)}, "unknown name 'fastest'"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
@pytest.mark.usefixtures("unchecked_types")
def test_bad_input_is_a_clear_error(lin400, changes, message):
    given = {"images": IMAGES, "labels": LABELS % 4, "epsilon": 8 / 255, "suite": ("fgsm",)}
    given |= changes
    answer = given.pop("answer", None)
    model = Answer(lin400.model, answer) if answer else lin400.model
    images, labels = given.pop("images"), given.pop("labels")
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(model, images, labels, **given)


def test_one_image_and_fewer_images_than_a_batch(lin400):
    for count in (1, 3):
        report = evaluate_robustness(
            lin400.model, lin400.images[:count], lin400.labels[:count], epsilon=1 / 255
        )
        assert report.robust_accuracy.num_images == count


@pytest.mark.parametrize("right", [12, 13])
def test_a_model_that_takes_no_image_alone(right, lin400):
    """As one that ends in a squeeze; batches of four leave a lone image sooner or later."""
    alone = Answer(lin400.model, lambda logits: logits.squeeze())
    problem = lin400.images[:right], lin400.labels[:right]
    reports = [
        evaluate_robustness(model, *problem, epsilon=4 / 255, batch_size=4)
        for model in (lin400.model, alone)
    ]
    robust = [report.robust_accuracy.value for report in reports]
    assert robust[0] == robust[1]
    assert "it comes twice" in next(c for c in reports[1].checks if c.id == "P3").explanation


def test_model_in_training_mode_gets_the_same_report_and_keeps_its_mode(lin400):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), *lin400.model)
    problem = model, lin400.images[:50], lin400.labels[:50]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluating, training = (
        evaluate_robustness(*problem, epsilon=4 / 255).figures()
        for model in (model.eval(), model.train())
    )
    assert evaluating.pop("latency_seconds") > 0 and training.pop("latency_seconds") > 0
    assert evaluating == training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_two_classes(lin400):
    model = Answer(lin400.model, lambda logits: logits[:, :2])
    with torch.no_grad():
        labels = model(lin400.images).argmax(1)
    report = evaluate_robustness(model, lin400.images, labels, epsilon=4 / 255, suite=("fast",))
    assert 0 <= report.robust_accuracy.value < report.clean_accuracy.value == 1
    assert {attack.settings["loss"] for attack in report.attacks} == {"logit_odds", "margin"}
