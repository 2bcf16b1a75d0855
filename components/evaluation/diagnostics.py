"""Does this number deserve trust? Cheap checks that catch masked gradients."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import project, radius, steepest_step
from components.attacks.gradients import input_gradient, untouched
from components.attacks.losses import margin
from components.evaluation.attack import Outcome, Subject
from components.evaluation.report import Check, Trust

_PROBED = 256  # images; if none of them shows a fault, its share is below 1.2 % at 95 %
_HUGE_BUDGET_IMAGES = 128
_HUGE_BUDGET_ATTACK = {"name": "pgd", "steps": 20, "loss": "margin"}
_TOLERATED = 0.002  # share that a weaker attack may find beyond a stronger one
_HONEST_VIEW = "Attack through the honest view of the defence, or with attacks without gradients."


def diagnose(subject: Subject, outcomes: Sequence[Outcome], fallen: Tensor) -> tuple[Check, ...]:
    """Run every check that costs little, on the model as an unsuspecting attacker meets it.

    Args:
        subject: the model and its images.
        outcomes: of every attack.
        fallen: per image, whether the curve's attack or the suite fooled it, within the report's
            radius or a smaller one.
    """
    naive = [outcome for outcome in outcomes if outcome.view == "as_is"]
    honest = [outcome for outcome in outcomes if outcome.view == "honest"]
    gradient = _margin_gradient(subject)
    checks = (
        _zero_gradients(gradient),
        _gain_ratio(subject, gradient),
        _huge_budget(subject),
        _dominance(
            "S4",
            "A plain search fools more",
            weaker=fallen,
            stronger=_fooled(subject, outcomes),
            explanation="Twenty steps on the margin, in this radius or a smaller one, fooled "
            "images that the suite's attacks missed: they were too weak or searched badly.",
            remedy="Add attacks to the suite, with more steps, smaller ones or another loss.",
        ),
        _dominance(
            "C5",
            "One step fools more than many",
            weaker=_fooled(subject, naive, "fgsm"),
            stronger=_fooled(subject, naive, "pgd"),
            explanation="An attack of many steps that converges is at least as strong as a single "
            "step. Where it is not, the gradients lead astray.",
            remedy=_HONEST_VIEW,
        ),
        _dominance(
            "B2",
            "Noise fools more than gradients",
            weaker=_fooled(subject, naive, "random_noise"),
            stronger=_fooled(subject, naive, "fgsm", "pgd"),
            explanation="Random noise knows nothing of the model. Where it fools images that "
            "gradients do not, the gradients were of no use.",
            remedy=_HONEST_VIEW,
        ),
        _dominance(
            "T1",
            "The honest view is easier to fool",
            weaker=_fooled(subject, honest),
            stronger=_fooled(subject, naive),
            explanation="The same attacks, given the usable gradients of the honest view, fool "
            "images that the model as it is only hid from them.",
            remedy="Believe the honest number, and count the defence as no gain.",
        ),
    )
    return tuple(check for check in checks if check is not None)


def judge_trust(checks: Sequence[Check]) -> Trust:
    """Sum the checks up: one failure is masked, more than two warnings are doubtful."""
    verdicts = [check.verdict for check in checks]
    if "fail" in verdicts:
        return "masked"
    return "doubtful" if verdicts.count("warn") > 2 else "trusted"


def _zero_gradients(gradient: Tensor) -> Check:
    largest = gradient.flatten(1).abs().amax(1)
    share = float(((largest == 0) | ~largest.isfinite()).float().mean())
    return Check(
        id="G1",
        title="Gradients that are zero or no number",
        value=share,
        threshold=0.01,
        verdict=_grade(share, warn=0.0, fail=0.01),
        explanation="Share of images at which the model gives an attacker no direction at all.",
        remedy=_HONEST_VIEW,
    )


def _gain_ratio(subject: Subject, gradient: Tensor) -> Check:
    """Compare what a quarter of the budget along the gradient gains with what it promised."""
    images, labels = subject.images[:_PROBED], subject.labels[:_PROBED]
    epsilon, norm = subject.settings.epsilon, subject.settings.norm
    budget = radius(epsilon / 4, images, norm)
    step = project(steepest_step(gradient, images, budget, norm), images, budget, norm)
    with torch.no_grad(), torch.random.fork_rng(), untouched(subject.model):
        margins = []
        for points in (images, images + step):
            torch.manual_seed(subject.settings.seed)  # a randomised model draws the same twice
            margins.append(margin(subject.model(points), labels).double())
    promised = float((gradient.double() * step).sum())
    ratio = float((margins[1] - margins[0]).sum()) / promised if promised else 0.0
    ratio = ratio if math.isfinite(ratio) else 0.0  # no number promises nothing
    return Check(
        id="G3",
        title="What a step gains of what its gradient promised",
        value=ratio,
        threshold=0.3,
        verdict=_grade(-ratio, warn=-0.6, fail=-0.3),
        explanation="1 where the model is straight, a little less where it bends; near 0 or "
        "negative where the gradient points nowhere useful.",
        remedy=_HONEST_VIEW,
    )


def _huge_budget(subject: Subject) -> Check:
    """Allow every pixel to change completely: nothing may then stand."""
    whole = 1.0 if subject.settings.norm == "linf" else math.sqrt(subject.images[0].numel())
    right = subject.clean_shares > 0.5
    standing = right & (right.cumsum(0) <= _HUGE_BUDGET_IMAGES)
    outcome = subject.attack(_HUGE_BUDGET_ATTACK, "as_is", epsilon=whole, standing=standing)
    share = float(outcome.shares.sum() / standing.sum().clamp_min(1))
    return Check(
        id="S5",
        title="Images that stand although anything is allowed",
        value=share,
        threshold=0.01,
        verdict=_grade(share, warn=0.01, fail=0.01),
        explanation="With no limit on the change, an attack can turn one image into another. One "
        "that cannot does not see where it is going, or the model gives one answer to everything.",
        remedy=_HONEST_VIEW,
    )


def _dominance(
    id: str,
    title: str,
    *,
    weaker: Tensor | None,
    stronger: Tensor | None,
    explanation: str,
    remedy: str,
) -> Check | None:
    """Ask whether the attack that should be weaker finds more than chance allows.

    An exact one-sided sign test on the images that only one of the two fools. Where either was not
    run there is nothing to ask.
    """
    if weaker is None or stronger is None:
        return None
    only_weaker, only_stronger = int((weaker & ~stronger).sum()), int((stronger & ~weaker).sum())
    share = only_weaker / len(weaker)
    excess = (only_weaker - only_stronger) / len(weaker)
    surprising = _binomial_tail(only_weaker, only_weaker + only_stronger) < 0.01
    return Check(
        id=id,
        title=title,
        value=share,
        threshold=_TOLERATED,
        verdict="fail" if surprising and excess >= 0.005 else _grade(share, warn=_TOLERATED),
        explanation=explanation,
        remedy=remedy,
    )


def _binomial_tail(successes: int, trials: int) -> float:
    """Give the chance of at least so many heads among so many throws of a fair coin."""
    return sum(math.comb(trials, k) for k in range(successes, trials + 1)) / 2**trials


def _grade(value: float, *, warn: float, fail: float = math.inf) -> Literal["pass", "warn", "fail"]:
    if value > fail:
        return "fail"
    return "warn" if value > warn else "pass"


def _fooled(subject: Subject, outcomes: Sequence[Outcome], *names: str) -> Tensor | None:
    """Say per image whether any of the outcomes, or those of the named attacks, fooled it."""
    chosen = [o.shares for o in outcomes if not names or o.settings["name"] in names]
    if not chosen:
        return None
    return (subject.clean_shares > 0.5) & (torch.stack(chosen).amin(0) <= 0.5)


def _margin_gradient(subject: Subject) -> Tensor:
    with torch.random.fork_rng(), untouched(subject.model):
        torch.manual_seed(subject.settings.seed)
        images, labels = subject.images[:_PROBED], subject.labels[:_PROBED]
        return input_gradient(subject.model, images, lambda logits: margin(logits, labels))[1]
