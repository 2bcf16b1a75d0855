"""Champion, challenger, rules -> verdict; pure."""

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa

from components.evaluation.report import RobustnessReport
from components.evaluation.suites import SUITES, attack_label
from components.registry.config import PromotionConfig
from components.registry.verdict import Rule, Verdict

Evaluation: TypeAlias = tuple[RobustnessReport, pa.Table]
"""A report and its samples, as `load_report` gives them."""

_ROUNDING = 1e-9  # 0.9 - 0.89 is a little more than 0.01


def compare(
    challenger: Evaluation,
    champion: Evaluation | None,
    policy: PromotionConfig,
    *,
    champion_version: str = "",
) -> Verdict:
    """Decide whether a challenger replaces the champion.

    It must be trusted, have met the required attacks and be fast enough; be measured on the same
    images, threat model and attacks; be more robust by more than noise and by as much as is asked;
    and have lost no more clean accuracy than allowed. Without a champion, what it is by itself is
    enough.

    Args:
        challenger: its evaluation.
        champion: its evaluation; None where there is no champion.
        policy: what is asked.
        champion_version: the registry's number of the champion.
    """
    report, samples = challenger
    alone = tuple(_judge_alone(report, policy))
    decide = partial(
        Verdict,
        challenger=str(report.model["checkpoint"]),
        champion_version=champion_version,
    )
    if champion is None:
        first = Rule(name="champion", passed=True, reason="There is no champion to compare with.")
        promoted = all(rule.passed for rule in alone)
        return decide(promoted=promoted, rules=(*alone, first))
    same = judge_likeness(challenger, champion)
    if not all(rule.passed for rule in same):
        return decide(promoted=False, rules=(*alone, *same))
    old = champion[0]
    better, worse = count_changes(samples, champion[1])
    p_value = sign_test(better, worse)
    rules = (
        *alone,
        *same,
        _judge_robustness(report, old, (better, worse), p_value, policy.significance),
        *_judge_gain(report, old, policy.minimum_gain),
        _judge_clean(report, old, policy.maximum_clean_loss),
    )
    return decide(
        promoted=all(rule.passed for rule in rules),
        rules=rules,
        gain=report.robust_accuracy.value - old.robust_accuracy.value,
        p_value=p_value,
        clean_loss=old.clean_accuracy.value - report.clean_accuracy.value,
    )


def judge_likeness(
    new: Evaluation, old: Evaluation, names: tuple[str, str] = ("the challenger", "the champion")
) -> tuple[Rule, ...]:
    """Ask whether two evaluations can be compared: the same images, threat model and attacks.

    Args:
        new: one of them.
        old: the other one.
        names: what sentences call them.
    """
    return (
        _judge_images(new, old, names),
        _judge_threat_model(new[0], old[0], names),
        _judge_attacks(new[0], old[0], names),
    )


def count_changes(new: pa.Table, old: pa.Table) -> tuple[int, int]:
    """Count the images on which one model is more robust than another, and those on which less.

    Args:
        new: samples of the one.
        old: samples of the other, of the same images.
    """
    after, before = (t.sort_by("id")["robust"].to_numpy() for t in (new, old))
    return int((after > before).sum()), int((after < before).sum())


def sign_test(better: int, worse: int) -> float:
    """Give the chance of at least so many improvements if improving and worsening were as likely.

    The exact one-sided sign test, on outcomes of right and wrong that of McNemar, 1947: the upper
    tail of a binomial distribution with one half, images without a change left out.
    """
    changed = better + worse
    term = tail = 1  # the number of ways to improve on all images, then on one fewer
    for worsened in range(worse):
        term = term * (changed - worsened) // (worsened + 1)
        tail += term
    return tail / 2**changed


def _judge_alone(report: RobustnessReport, policy: PromotionConfig) -> Iterator[Rule]:
    """Ask what needs no champion."""
    yield _judge_trust(report, policy.required_trust)
    for suite in policy.required_suites:
        yield _judge_suite(report, suite)
    if policy.maximum_latency_seconds is not None:
        yield _judge_latency(report, policy.maximum_latency_seconds)


def _judge_trust(report: RobustnessReport, required: str) -> Rule:
    doubts = [f"{check.id} {check.title}" for check in report.checks if check.verdict != "pass"]
    because = f"; checks that spoke against it: {', '.join(doubts)}" if doubts else ""
    return Rule(
        name="trust",
        passed=report.trust in ("trusted", required),
        reason=f"The challenger's robust accuracy is {report.trust}{because}.",
    )


def _judge_suite(report: RobustnessReport, suite: str) -> Rule:
    """Ask whether every attack of a suite was tried on all images there was to try it on."""
    met = {a.name for a in report.attacks if not a.left_out}
    missing = [label for label in map(attack_label, SUITES[suite]) if label not in met]
    reason = f"not all of it: {', '.join(missing)} is missing" if missing else "all of it"
    return Rule(
        name=f"suite {suite}",
        passed=not missing,
        reason=f"Of the required suite {suite} the challenger met {reason}.",
    )


def _judge_latency(report: RobustnessReport, maximum: float) -> Rule:
    found = report.latency_seconds
    took = "an unknown time" if found is None else f"{found * 1000:.3g} ms"
    return Rule(
        name="latency",
        passed=found is not None and found <= maximum,
        reason=f"One image takes the challenger {took}; it may take {maximum * 1000:.3g} ms.",
    )


def _judge_gain(
    challenger: RobustnessReport, champion: RobustnessReport, minimum: float
) -> Iterator[Rule]:
    if minimum:
        gain = challenger.robust_accuracy.value - champion.robust_accuracy.value
        yield Rule(
            name="minimum gain",
            passed=gain >= minimum - _ROUNDING,
            reason=f"Robust accuracy changed by {gain * 100:+.1f} points; it must rise by "
            f"{minimum * 100:.1f}.",
        )


def _judge_images(new: Evaluation, old: Evaluation, names: tuple[str, str]) -> Rule:
    ids, old_ids = (sorted(samples["id"].to_pylist()) for _, samples in (new, old))
    prints = [str(report.data["fingerprint"]) for report, _ in (new, old)]
    if prints[0] != prints[1]:
        reason = (
            f"{_start(names)} was measured on the data {prints[0]:.12}, {names[1]} on "
            f"{prints[1]:.12}."
        )
    elif ids != old_ids:
        shared = len(set(ids) & set(old_ids))
        reason = (
            f"{_start(names)} was measured on {len(ids)} images, {names[1]} on {len(old_ids)}, "
            f"of which they share {shared}."
        )
    else:
        reason = f"Both were measured on the same {len(ids)} images."
    return Rule(name="images", passed=prints[0] == prints[1] and ids == old_ids, reason=reason)


def _judge_threat_model(
    new: RobustnessReport, old: RobustnessReport, names: tuple[str, str]
) -> Rule:
    same = (new.norm, new.epsilon) == (old.norm, old.epsilon)
    if same:
        reason = f"Both were attacked in {new.norm} with epsilon {new.epsilon:g}."
    else:
        reason = (
            f"{_start(names)} was attacked in {new.norm} with epsilon {new.epsilon:.6g}, "
            f"{names[1]} in {old.norm} with {old.epsilon:.6g}."
        )
    return Rule(name="threat model", passed=same, reason=reason)


def _judge_attacks(new: RobustnessReport, old: RobustnessReport, names: tuple[str, str]) -> Rule:
    """Compare what was asked of both; an undefended model has no second view to be attacked in."""
    mine, theirs = _attacks(new), _attacks(old)
    differing = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    if differing:
        told = (_tell_apart(name, mine.get(name), theirs.get(name), names) for name in differing)
        reason = f"The attacks differ: {'; '.join(told)}."
    else:
        reason = f"Both withstood or fell to the same attacks: {', '.join(mine)}."
    return Rule(name="attacks", passed=not differing, reason=reason)


def _start(names: tuple[str, str]) -> str:
    """Begin a sentence with the first name."""
    return names[0][0].upper() + names[0][1:]


def _attacks(report: RobustnessReport) -> dict[str, dict[str, Any]]:
    """Give every attack's settings by its name, which is its own, and how noise is averaged out."""
    attacks = {a.name: dict(a.settings) for a in report.attacks if a.view == "as_is"}
    draws = {name: report.settings.get(name) for name in ("draws", "view_draws", "seed")}
    return {**attacks, "the draws": draws}


def _tell_apart(
    name: str, new: dict[str, Any] | None, old: dict[str, Any] | None, names: tuple[str, str]
) -> str:
    if new is None or old is None:
        return f"only {names[new is None]} met {name}"
    options = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    words = [f"{key} {new.get(key)} instead of {old.get(key)}" for key in options]
    return f"{name} with {', '.join(words)}"


def _judge_robustness(
    challenger: RobustnessReport,
    champion: RobustnessReport,
    changes: tuple[int, int],
    p_value: float,
    significance: float,
) -> Rule:
    new, old = challenger.robust_accuracy.value, champion.robust_accuracy.value
    return Rule(
        name="robust accuracy",
        passed=new > old and p_value < significance,
        reason=f"Robust accuracy went from {old:.1%} to {new:.1%}, better on {changes[0]} images "
        f"and worse on {changes[1]}; chance alone does as much with probability {p_value:.2g}, "
        f"which must be below {significance:g}.",
    )


def _judge_clean(
    challenger: RobustnessReport, champion: RobustnessReport, maximum_loss: float
) -> Rule:
    new, old = challenger.clean_accuracy.value, champion.clean_accuracy.value
    return Rule(
        name="clean accuracy",
        passed=old - new <= maximum_loss + _ROUNDING,
        reason=f"Clean accuracy went from {old:.1%} to {new:.1%}; "
        f"it may fall by {maximum_loss:.1%}.",
    )
