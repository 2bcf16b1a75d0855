"""Which checks accuse whom: broken defences are found out, honest models are cleared."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.defences import DEFENCES
from components.evaluation.config import EvaluationConfig
from components.evaluation.diagnostics import diagnose, judge_trust
from components.evaluation.grading import binomial_tail, check, dominance
from components.evaluation.measure import measure as measure_model
from components.evaluation.recording import check_path, check_progress, record
from components.evaluation.report import Check
from components.evaluation.subject import Subject
from tests.evaluation import zoo

QUICK = ({"name": "apgd", "steps": 20}, {"name": "apgd_targeted", "steps": 10})


@pytest.mark.parametrize("exhibit", zoo.EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_what_hides_is_found_out_and_what_does_not_is_cleared(exhibit):
    guess = [{"name": "square", "queries": 100}] if "P6" in exhibit.alarms else []
    ruling = zoo.examine(exhibit, suite=(*QUICK, *guess), precision="float32")
    facts = (ruling.found, ruling.report.trust, ruling.alarms, str(ruling.report.robust_accuracy))
    assert ruling.right, facts


def verdicts(checks) -> dict[str, str]:
    """Give the worst verdict under each id."""
    order = ("pass", "warn", "fail")
    found: dict[str, str] = {}
    for each in checks:
        found[each.id] = max(found.get(each.id, "pass"), each.verdict, key=order.index)
    return found


EVERY = {"S1", "S2", "S3", "S4", "S5", "S6", "D1", "C5", "B2", "C6"} | {
    f"G{k}" for k in range(1, 8)
}
THOROUGH = {"C1", "C2", "C3", "C4", "L1", "B1"}


@pytest.fixture(scope="module")
def scrutinised(lin400, settings):
    """The linear model as it is and concealed, with every check there is."""
    thorough = replace(settings, suite=QUICK, thorough=True)
    concealed = DEFENCES["gradient_concealment"](lin400.model)
    return [
        measure_model(model, lin400.images[:160], lin400.labels[:160], thorough)
        for model in (lin400.model, concealed)
    ]


def test_every_check_of_the_list_is_made(scrutinised):
    found = verdicts(scrutinised[0].checks)
    assert {*found} == {f"P{k}" for k in range(1, 14)} | EVERY | THOROUGH
    assert {*found.values()} == {"pass"}


def test_a_defence_is_compared_with_its_base(scrutinised):
    bare, concealed = scrutinised
    found = {each.id: each for each in concealed.checks}
    assert found["T1"].value > 0.3 and found["B1"].value > 0.1
    assert found["T1"].verdict == found["B1"].verdict == "fail"
    left = float(bare.robust.sum() / bare.subject.right.sum())
    assert found["A1"].value == pytest.approx(left, abs=0.05)
    assert found["T2"].value == pytest.approx(0, abs=0.02)


def test_every_check_explains_itself(scrutinised):
    for each in (*scrutinised[0].checks, *scrutinised[1].checks):
        assert each.title and each.explanation.strip().endswith(".") and each.remedy.endswith(".")
        assert "  " not in each.explanation


def test_a_randomised_model_is_compared_with_itself_frozen(lin400, settings):
    torch.manual_seed(0)
    model = DEFENCES["random_resize_pad"](lin400.model, min_size=0.9).eval()
    few = replace(settings, thorough=True, suite=({"name": "pgd", "steps": 10},))
    measured = measure_model(model, lin400.images[:64], lin400.labels[:64], few)
    found = verdicts(measured.checks)
    assert {"R1", "R2", "T1"} <= {*found} and "C6" not in found
    assert found["P2"] == found["R1"] == found["R2"] == "pass"


def test_checks_cost_little_beside_the_suite(lin400):
    asked = [0]

    def count(module, inputs, output):
        asked[0] += len(output) * (3 if torch.is_grad_enabled() else 1)

    settings = EvaluationConfig(epsilon=8 / 255, precision="float32")
    measured = measure_model(*lin400, settings)
    suite = sum(outcome.forwards + 2 * outcome.gradients for outcome in measured.outcomes)
    handles = [
        view.register_forward_hook(count)
        for view in (lin400.model, *measured.subject._copies.values())
        if view is not None
    ]
    diagnose(
        measured.subject, measured.outcomes, curve=measured.curve, strongest=measured.strongest
    )
    for handle in handles:
        handle.remove()
    assert 0 < asked[0] < 0.15 * suite


@pytest.mark.parametrize("weak", [{"name": "fgsm"}, {"name": "pgd", "steps": 1}])
def test_a_weak_suite_is_not_trusted_nor_the_model_blamed(lin400, settings, weak):
    measured = measure_model(*lin400, replace(settings, suite=(weak,)))
    assert verdicts(measured.checks)["S4"] == "fail"
    assert judge_trust(measured.checks) == "doubtful"


@pytest.fixture
def subject(lin400, settings) -> Subject:
    return Subject(*lin400, settings)


def test_an_attack_that_was_not_applied_is_noticed(subject, lin400, settings, monkeypatch):
    def idle(model, images, labels, *, epsilon: float, norm: str = "linf", seed=0):
        return images.clone()

    monkeypatch.setitem(ATTACKS, "idle", idle)
    measured = measure_model(*lin400, replace(settings, suite=({"name": "idle"},)))
    assert verdicts(measured.checks)["S1"] == "fail"


def test_images_that_do_not_fool_when_asked_again_are_noticed(measure):
    measured = measure()
    strongest = measured.strongest
    images = strongest.images.clone()
    try:
        strongest.images = measured.subject.images
        again = diagnose(
            measured.subject, measured.outcomes, curve=measured.curve, strongest=strongest
        )
    finally:
        strongest.images = images
    assert verdicts(again)["S3"] == "fail"


def test_a_success_that_is_lost_again_is_noticed(subject, monkeypatch):
    def careless(
        model, images, labels, *, epsilon: float, norm: str = "linf", steps: int = 1, seed=0
    ):
        """Look at the best point and give back one nearby."""
        best = ATTACKS["pgd"](model, images, labels, epsilon=epsilon, loss="margin")
        model(best)
        return images + 0.5 * (best - images)

    monkeypatch.setitem(ATTACKS, "careless", careless)
    lost = subject.attack({"name": "careless"}, standing=subject.right)
    kept = subject.attack({"name": "pgd", "loss": "margin"}, standing=subject.right)
    found = [next(check_path(record(subject, [o], subject.right, 64))) for o in (lost, kept)]
    assert found[0].verdict == "fail" and found[0].value > 0.1
    assert found[1].verdict == "pass" and found[1].value == 0


def test_an_attack_that_stops_too_soon_is_noticed(subject):
    choices = [
        {"name": "pgd", "steps": 20, "start": "clean", "step_size": 1e-4, "loss": "margin"},
        {"name": "pgd", "steps": 40, "loss": "margin"},
    ]
    hurried, patient = (
        next(check_progress(record(subject, [outcome], subject.right, 64)))
        for outcome in (subject.attack(choice, standing=subject.right) for choice in choices)
    )
    assert hurried.verdict == "warn" and hurried.value > 0.9
    assert patient.verdict == "pass"


def test_time_that_ran_out_is_noticed(lin400, settings):
    hurried = replace(settings, budget_seconds=1e-6)
    measured = measure_model(*lin400, hurried)
    assert verdicts(measured.checks)["S6"] == "fail"
    assert judge_trust(measured.checks) in ("doubtful", "masked")


def test_a_model_that_gives_one_answer_is_not_accused(lin400, settings):
    class Constant(nn.Module):
        def forward(self, images):
            bias = torch.tensor([1.0, 0.0, 0.0, 0.0])
            return 1e-3 * images.flatten(1)[:, :4] + bias

    measured = measure_model(Constant(), *lin400[1:], settings)
    assert "S5" not in verdicts(measured.checks)


def test_a_model_that_is_never_right_is_no_obstacle(lin400, settings):
    measured = measure_model(lin400.model, lin400.images, (lin400.labels + 2) % 4, settings)
    right = measured.subject.right
    nobody = measure_model(
        lin400.model, lin400.images[~right], (lin400.labels[~right] + 2) % 4, settings
    )
    assert not nobody.subject.right.any() and "G1" not in verdicts(nobody.checks)


# Fewest images only the weaker attack must fool, given how many only the stronger one does.
FEWEST = {0: 7, 1: 10, 2: 12, 3: 14, 5: 17, 10: 25}


@pytest.mark.parametrize(("stronger", "weaker"), FEWEST.items())
def test_sign_test_fails_from_where_one_per_cent_does(stronger, weaker):
    assert binomial_tail(weaker, weaker + stronger) < 0.01
    assert binomial_tail(weaker - 1, weaker - 1 + stronger) >= 0.01

    def verdict(only_weaker: int) -> str:
        one, other = torch.ones(400), torch.ones(400)
        one[:only_weaker], other[300 : 300 + stronger] = 0, 0
        everything = torch.ones(400, dtype=torch.bool)
        return dominance(
            "X",
            "t",
            weaker=one,
            stronger=other,
            compared=everything,
            explanation="",
            remedy="",
        ).verdict

    assert verdict(weaker) == "fail" and verdict(weaker - 1) == "warn"
    assert verdict(1) == verdict(0) == "pass"


def of(id: str, verdict) -> Check:
    return check(id, "t", 0.0, verdict, "")


@pytest.mark.parametrize(
    ("found", "trust"),
    [
        ([], "trusted"),
        ([("G1", "pass"), ("G5", "warn"), ("G7", "warn")], "trusted"),
        ([("G1", "warn"), ("G5", "warn"), ("G7", "warn")], "doubtful"),
        ([("C1", "fail"), ("S6", "fail")], "doubtful"),
        ([("C1", "fail"), ("G1", "fail")], "masked"),
    ],
)
def test_trust_sums_the_checks_up(found, trust):
    assert judge_trust([of(id, verdict) for id, verdict in found]) == trust


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_fit_into_the_report(value):
    assert check("X", "t", value, "pass", "").value == 1e9
