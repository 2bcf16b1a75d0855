"""Champion, challenger, rules -> verdict; pure."""

from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa

from components.evaluation.report import RobustnessReport
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

    It must be trusted; be measured on the same images, threat model and attacks; be more robust by
    more than noise; and have lost no more clean accuracy than allowed. Without a champion, trust is
    enough.

    Args:
        challenger: its evaluation.
        champion: its evaluation; None where there is no champion.
        policy: how much is more than noise, and how much loss is allowed.
        champion_version: the registry's number of the champion.
    """
    report, _ = challenger
    trust = _judge_trust(report)
    decide = partial(
        Verdict,
        challenger=str(report.model["checkpoint"]),
        champion_version=champion_version,
    )
    if champion is None:
        first = Rule(name="champion", passed=True, reason="There is no champion to compare with.")
        return decide(promoted=trust.passed, rules=(trust, first))
    same = (
        _judge_images(challenger, champion),
        _judge_threat_model(report, champion[0]),
        _judge_attacks(report, champion[0]),
    )
    if not all(rule.passed for rule in same):
        return decide(promoted=False, rules=(trust, *same))
    gain = report.robust_accuracy.value - champion[0].robust_accuracy.value
    better, worse = _count_changes(challenger[1], champion[1])
    p_value = sign_test(better, worse)
    clean_loss = champion[0].clean_accuracy.value - report.clean_accuracy.value
    rules = (
        trust,
        *same,
        _judge_robustness(report, champion[0], (better, worse), p_value, policy.significance),
        _judge_clean(report, champion[0], policy.maximum_clean_loss),
    )
    return decide(
        promoted=all(rule.passed for rule in rules),
        rules=rules,
        gain=gain,
        p_value=p_value,
        clean_loss=clean_loss,
    )


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


def _judge_trust(report: RobustnessReport) -> Rule:
    doubts = [f"{check.id} {check.title}" for check in report.checks if check.verdict != "pass"]
    because = f"; checks that spoke against it: {', '.join(doubts)}" if doubts else ""
    return Rule(
        name="trust",
        passed=report.trust == "trusted",
        reason=f"The challenger's robust accuracy is {report.trust}{because}.",
    )


def _judge_images(challenger: Evaluation, champion: Evaluation) -> Rule:
    ids, old_ids = (sorted(samples["id"].to_pylist()) for _, samples in (challenger, champion))
    prints = [str(report.data["fingerprint"]) for report, _ in (challenger, champion)]
    if prints[0] != prints[1]:
        reason = (
            f"The challenger was measured on the data {prints[0]:.12}, the champion on "
            f"{prints[1]:.12}."
        )
    elif ids != old_ids:
        shared = len(set(ids) & set(old_ids))
        reason = (
            f"The challenger was measured on {len(ids)} images, the champion on {len(old_ids)}, "
            f"of which they share {shared}."
        )
    else:
        reason = f"Both were measured on the same {len(ids)} images."
    return Rule(name="images", passed=prints[0] == prints[1] and ids == old_ids, reason=reason)


def _judge_threat_model(challenger: RobustnessReport, champion: RobustnessReport) -> Rule:
    new, old = ((report.norm, report.epsilon) for report in (challenger, champion))
    if new == old:
        reason = f"Both were attacked in {new[0]} with epsilon {new[1]:g}."
    else:
        reason = (
            f"The challenger was attacked in {new[0]} with epsilon {new[1]:.6g}, the champion in "
            f"{old[0]} with {old[1]:.6g}."
        )
    return Rule(name="threat model", passed=new == old, reason=reason)


def _judge_attacks(challenger: RobustnessReport, champion: RobustnessReport) -> Rule:
    """Compare what was asked of both; an undefended model has no second view to be attacked in."""
    new, old = _attacks(challenger), _attacks(champion)
    differing = sorted(name for name in {*new, *old} if new.get(name) != old.get(name))
    if differing:
        reason = "; ".join(_tell_apart(name, new.get(name), old.get(name)) for name in differing)
        reason = f"The attacks differ: {reason}."
    else:
        reason = f"Both withstood or fell to the same attacks: {', '.join(new)}."
    return Rule(name="attacks", passed=not differing, reason=reason)


def _attacks(report: RobustnessReport) -> dict[str, dict[str, Any]]:
    """Give every attack's settings by its name, which is its own, and how noise is averaged out."""
    attacks = {a.name: dict(a.settings) for a in report.attacks if a.view == "as_is"}
    draws = {name: report.settings.get(name) for name in ("draws", "view_draws", "seed")}
    return {**attacks, "the draws": draws}


def _tell_apart(name: str, new: dict[str, Any] | None, old: dict[str, Any] | None) -> str:
    if new is None or old is None:
        return f"only the {'champion' if new is None else 'challenger'} met {name}"
    options = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    words = [f"{key} {new.get(key)} instead of {old.get(key)}" for key in options]
    return f"{name} with {', '.join(words)}"


def _count_changes(challenger: pa.Table, champion: pa.Table) -> tuple[int, int]:
    """Count the images on which the challenger is more robust, and those on which it is less."""
    new, old = (t.sort_by("id")["robust"].to_numpy() for t in (challenger, champion))
    return int((new > old).sum()), int((new < old).sum())


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
