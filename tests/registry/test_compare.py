"""The rules of promotion one by one, and the paired test against brute force and scipy."""

from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from components.evaluation.report import Accuracy, AttackResult, Check, RobustnessReport
from components.registry.compare import compare, sign_test
from components.registry.config import PromotionConfig
from components.registry.verdict import VERDICT, load_verdict, save_verdict

POLICY = PromotionConfig(model_name="m", maximum_clean_loss=0.01, significance=0.05)


def evaluation(robust, *, clean=0.9, ids=None, **changes):
    """Make a report and samples whose images are robust as told."""
    ids = ids or [f"image-{n}" for n in range(len(robust))]
    accuracy = Accuracy.of(sum(robust) / len(robust), len(robust))
    attack = AttackResult(
        name="pgd-20",
        view="as_is",
        settings={"name": "pgd", "steps": 20, "epsilon": 8 / 255},
        robust_accuracy=accuracy,
        seconds=1.0,
    )
    report = RobustnessReport(
        title="prune",
        model={"checkpoint": "c" * 64},
        data={"fingerprint": "f" * 64},
        norm="linf",
        epsilon=8 / 255,
        clean_accuracy=Accuracy.of(clean, len(robust)),
        naive_robust_accuracy=accuracy,
        robust_accuracy=accuracy,
        attacks=(attack,),
        metrics={},
        curve=((0.0, accuracy),),
        checks=(),
        trust="trusted",
        costs={},
        settings={},
        versions={},
        seconds=1.0,
    )
    return replace(report, **changes), pa.table({"id": ids, "robust": [float(r) for r in robust]})


WEAK = [1] * 40 + [0] * 60
STRONG = [1] * 60 + [0] * 40


def failed(verdict):
    return [rule.name for rule in verdict.rules if not rule.passed]


@pytest.mark.parametrize("changed", range(13))
def test_sign_test_against_brute_force(changed):
    """Every way in which so many fair coins can fall."""
    throws = list(product((0, 1), repeat=changed))
    for better in range(changed + 1):
        as_much = sum(sum(throw) >= better for throw in throws)
        assert sign_test(better, changed - better) == as_much / len(throws)


@pytest.mark.parametrize(
    ("better", "worse"), [(5, 0), (40, 11), (11, 40), (500, 500), (5210, 4790), (3000, 1)]
)
def test_sign_test_against_scipy(better, worse):
    expected = binomtest(better, better + worse, 0.5, alternative="greater").pvalue
    assert sign_test(better, worse) == pytest.approx(expected, rel=1e-9)


def test_the_first_model_needs_only_trust():
    assert compare(evaluation(WEAK), None, POLICY).promoted
    verdict = compare(evaluation(WEAK, trust="doubtful"), None, POLICY)
    assert not verdict.promoted
    assert failed(verdict) == ["trust"]
    assert verdict.champion_version == ""


def test_more_robust_by_more_than_noise():
    verdict = compare(evaluation(STRONG), evaluation(WEAK), POLICY, champion_version="3")
    assert verdict.promoted
    assert failed(verdict) == []
    assert verdict.gain == pytest.approx(0.2)
    assert verdict.p_value == 0.5**20
    assert verdict.champion_version == "3"
    assert "40.0% to 60.0%" in str(verdict)


@pytest.mark.parametrize(("better", "promoted"), [(4, False), (5, True)])
def test_five_images_better_and_none_worse_are_the_fewest_that_count(better, promoted):
    """One half to the fifth is below 0.05, to the fourth it is not."""
    challenger = [1] * (40 + better) + [0] * (60 - better)
    verdict = compare(evaluation(challenger), evaluation(WEAK), POLICY)
    assert verdict.promoted is promoted
    assert failed(verdict) == ([] if promoted else ["robust accuracy"])


def test_a_model_does_not_beat_itself():
    verdict = compare(evaluation(WEAK), evaluation(WEAK), POLICY)
    assert failed(verdict) == ["robust accuracy"]
    assert verdict.p_value == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_random_gains_against_an_independent_test(seed):
    """Fifty pairs of models each; a gain counts just where scipy's binomial test says so."""
    draw = np.random.default_rng(seed)
    decided = []
    for _ in range(50):
        n = int(draw.integers(20, 400))
        champion = draw.random(n) < draw.uniform(0.1, 0.9)
        flipped = draw.random(n) < draw.uniform(0, 0.4)
        lean = draw.uniform(0.2, 1)  # above one half, changes are mostly for the better
        better = flipped & ~champion & (draw.random(n) < lean)
        worse = flipped & champion & (draw.random(n) < 1 - lean)
        challenger = (champion | better) & ~worse
        verdict = compare(evaluation(challenger.tolist()), evaluation(champion.tolist()), POLICY)
        ups, downs = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
        p_value = (
            binomtest(ups, ups + downs, 0.5, alternative="greater").pvalue if ups + downs else 1.0
        )
        assert verdict.p_value == pytest.approx(p_value, rel=1e-9)
        assert verdict.promoted is bool(p_value < POLICY.significance)
        assert failed(verdict) == ([] if verdict.promoted else ["robust accuracy"])
        decided.append(verdict.promoted)
    assert 10 < sum(decided) < 40  # cases of both kinds


def test_images_are_matched_by_id_not_by_row():
    ids = [f"image-{n}" for n in range(100)]
    backwards = evaluation(WEAK[::-1], ids=ids[::-1])
    assert compare(backwards, evaluation(WEAK, ids=ids), POLICY).p_value == 1.0


def test_shares_of_draws_count_as_better_or_worse():
    """Many small improvements do not outweigh a mean that fell."""
    challenger = [0.55] * 90 + [0.0] * 10
    champion = [0.5] * 90 + [1.0] * 10
    verdict = compare(evaluation(challenger), evaluation(champion), POLICY)
    assert verdict.p_value < 1e-10
    assert failed(verdict) == ["robust accuracy"]


@pytest.mark.parametrize(("clean", "promoted"), [(0.89, True), (0.889, False), (0.95, True)])
def test_clean_accuracy_may_fall_as_far_as_allowed(clean, promoted):
    verdict = compare(evaluation(STRONG, clean=clean), evaluation(WEAK, clean=0.9), POLICY)
    assert verdict.promoted is promoted
    assert failed(verdict) == ([] if promoted else ["clean accuracy"])


def test_an_untrusted_number_never_promotes():
    check = Check(
        id="G1",
        title="Gradients that are exactly zero",
        value=0.5,
        threshold=0.01,
        verdict="fail",
        explanation="e",
        remedy="r",
    )
    masked = evaluation(STRONG, trust="masked", checks=(check,))
    verdict = compare(masked, evaluation(WEAK), POLICY)
    assert not verdict.promoted
    assert failed(verdict) == ["trust"]
    assert "G1 Gradients that are exactly zero" in str(verdict)


def other_attack(**changes):
    (attack,) = evaluation(WEAK)[0].attacks
    return {"attacks": (replace(attack, **changes),)}


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"data": {"fingerprint": "a" * 64}}, "images", "aaaaaaaaaaaa"),
        ({"ids": [f"image-{n}" for n in range(1, 101)]}, "images", "share 99"),
        ({"norm": "l2"}, "threat model", "l2"),
        ({"epsilon": 4 / 255}, "threat model", "0.0156863"),
        (
            other_attack(settings={"name": "pgd", "steps": 2, "epsilon": 8 / 255}),
            "attacks",
            "steps 2 instead of 20",
        ),
        (other_attack(name="fgsm"), "attacks", "only the challenger met fgsm"),
        ({"attacks": ()}, "attacks", "only the champion met pgd-20"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_difference_named(changes, rule, words):
    verdict = compare(evaluation(STRONG, **changes), evaluation(WEAK), POLICY)
    assert not verdict.promoted
    assert failed(verdict) == [rule]
    assert words in str(verdict)
    assert verdict.gain is None
    assert verdict.p_value is None


@pytest.mark.parametrize(("gain", "promoted"), [(0.2, True), (0.21, False)])
def test_a_minimum_gain(gain, promoted):
    verdict = compare(evaluation(STRONG), evaluation(WEAK), replace(POLICY, minimum_gain=gain))
    assert verdict.promoted is promoted
    assert failed(verdict) == ([] if promoted else ["minimum gain"])


@pytest.mark.parametrize("champion", [None, evaluation(WEAK)])
@pytest.mark.parametrize(
    ("trust", "required", "promoted"),
    [
        ("trusted", "doubtful", True),
        ("doubtful", "doubtful", True),
        ("doubtful", "trusted", False),
        ("masked", "doubtful", False),
        ("masked", "trusted", False),
    ],
)
def test_required_trust(champion, trust, required, promoted):
    policy = replace(POLICY, required_trust=required)
    verdict = compare(evaluation(STRONG, trust=trust), champion, policy)
    assert verdict.promoted is promoted
    assert failed(verdict) == ([] if promoted else ["trust"])


def test_masked_cannot_be_asked_for():
    with pytest.raises(ValueError, match="required_trust must be one of trusted, doubtful"):
        replace(POLICY, required_trust="masked")


@pytest.mark.parametrize(("seconds", "promoted"), [(0.002, True), (0.0021, False), (None, False)])
def test_a_limit_on_latency(seconds, promoted):
    policy = replace(POLICY, maximum_latency_seconds=0.002)
    verdict = compare(evaluation(STRONG, latency_seconds=seconds), None, policy)
    assert verdict.promoted is promoted
    assert failed(verdict) == ([] if promoted else ["latency"])


def test_required_suites():
    policy = replace(POLICY, required_suites=("fast",))
    assert failed(compare(evaluation(STRONG), None, policy)) == ["suite fast"]
    (attack,) = evaluation(STRONG)[0].attacks
    met = tuple(replace(attack, name=name) for name in ("apgd", "apgd_targeted"))
    assert compare(evaluation(STRONG, attacks=met), None, policy).promoted
    hasty = (met[0], replace(met[1], left_out=1))
    verdict = compare(evaluation(STRONG, attacks=hasty), None, policy)
    assert "not all of it: apgd_targeted is missing" in str(verdict)
    with pytest.raises(ValueError, match="unknown suite 'fats'"):
        replace(POLICY, required_suites=("fats",))


def test_the_second_view_of_a_defended_model_is_no_difference():
    (attack,) = evaluation(WEAK)[0].attacks
    defended = evaluation(STRONG, attacks=(attack, replace(attack, view="honest")))
    assert compare(defended, evaluation(WEAK), POLICY).promoted


def test_a_verdict_through_a_file(tmp_path):
    verdict = compare(evaluation(STRONG), evaluation(WEAK), POLICY, champion_version="3")
    save_verdict(verdict, tmp_path / "verdict")
    assert load_verdict(tmp_path / "verdict") == verdict
    with pytest.raises(ValueError, match="holds no verdict"):
        load_verdict(tmp_path)
    (tmp_path / VERDICT).write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="has schema 0"):
        load_verdict(tmp_path)
