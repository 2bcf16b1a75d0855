"""Does this number deserve trust? Checks that find masked gradients and attacks that failed."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from components.defences.defended import is_defended
from components.evaluation.gradient_checks import check_gradients
from components.evaluation.grading import HONEST_VIEW, check, dominance, grade
from components.evaluation.outcome import Outcome, Strongest
from components.evaluation.recording import check_path, record
from components.evaluation.report import Check, Trust
from components.evaluation.sanity import check_evaluation, worst_shares
from components.evaluation.scrutiny import scrutinise
from components.evaluation.subject import Subject
from components.tensors import PerSample

_PROBED = 256  # images; if none of them shows a fault, its share is below 1.2 % at 95 %
_WATCHED = 16  # images, step by step
_NO_GRADIENTS = {"hop_skip_jump", "random_noise", "spsa", "square"}
# What these find speaks about the search, not about the model.
_OF_THE_SEARCH = {"C1", "C2", "C3", "C4", "C6", "D1", "S4", "S6"}


def diagnose(
    subject: Subject,
    outcomes: Sequence[Outcome],
    *,
    curve: Sequence[tuple[float, PerSample]],
    strongest: Strongest,
) -> tuple[Check, ...]:
    """Run every check, on the model as an unsuspecting attacker meets it.

    Args:
        subject: the model and its images.
        outcomes: of every attack.
        curve: radius and the shares left there, rising radius.
        strongest: the worst adversarial image of each clean one.

    Returns:
        What preflight found, then the checks; those that cost as much as attacks only where the
        settings ask for them.
    """
    right = subject.clean_shares > 0.5
    probe = right & (right.cumsum(0) <= _PROBED)
    checks = [
        *subject.preflight.checks,
        *check_evaluation(subject, outcomes, curve, strongest),
        *_transfer(subject, outcomes),
        *_black_box(subject, outcomes),
        _dynamic(subject),
    ]
    if bool(probe.any()):
        checks += check_gradients(subject, probe.nonzero().squeeze(1))
        if subject.preflight.differentiable:
            checks += _one_step_and_noise(subject, outcomes, probe)
            checks += check_path(record(subject, outcomes, probe, _WATCHED))
        if subject.settings.thorough:
            checks += scrutinise(subject, outcomes, probe, strongest)
    return tuple(checks)


def judge_trust(checks: Sequence[Check]) -> Trust:
    """Sum the checks up.

    A model that fails a check hides something. Where only the search is at fault, or more than two
    warnings add up, the number is doubtful.
    """
    failed = {check.id for check in checks if check.verdict == "fail"}
    if failed - _OF_THE_SEARCH:
        return "masked"
    warnings = sum(check.verdict == "warn" for check in checks)
    return "doubtful" if failed or warnings > 2 else "trusted"


def _one_step_and_noise(
    subject: Subject, outcomes: Sequence[Outcome], probe: Tensor
) -> Iterator[Check]:
    """Try what should be weaker than many steps; those are ten here and all that the suite took."""
    trials = 200 if subject.settings.thorough else 20
    keep = {"keep": "last"} if subject.randomised else {}
    one, many, noise = (
        subject.attack(choice, standing=probe)
        for choice in (
            {"name": "fgsm", "loss": "margin"},
            {"name": "pgd", "steps": 10, "loss": "margin", **keep},
            {"name": "random_noise", "trials": trials},
        )
    )
    if one.left_out or many.left_out or noise.left_out:
        return
    climbs = [o for o in outcomes if o.view == "as_is" and "steps" in o.settings]
    climbed = torch.minimum(many.shares, worst_shares(subject, climbs))
    yield dominance(
        "C5",
        "One step fools more than many",
        weaker=one.shares,
        stronger=climbed,
        compared=probe,
        explanation="An attack of many steps that converges is at least as strong as a single "
        "step. Where it is not, the gradients lead astray.",
        remedy=HONEST_VIEW,
    )
    yield dominance(
        "B2",
        "Noise fools more than gradients",
        weaker=noise.shares,
        stronger=torch.minimum(one.shares, climbed),
        compared=probe,
        explanation="Random noise knows nothing of the model. Where it fools images that "
        "gradients do not, the gradients were of no use.",
        remedy=HONEST_VIEW,
    )


def _transfer(subject: Subject, outcomes: Sequence[Outcome]) -> Iterator[Check]:
    naive = [outcome for outcome in outcomes if outcome.view == "as_is"]
    other = [outcome for outcome in outcomes if outcome.view != "as_is"]
    if not naive or not other:
        return
    tried = [torch.stack([o.attacked for o in group]).any(0) for group in (naive, other)]
    yield dominance(
        "T1",
        "Other gradients than its own fool the model more",
        weaker=worst_shares(subject, other),
        stronger=worst_shares(subject, naive),
        compared=tried[0] & tried[1],
        explanation="The same attacks, given the gradients of the honest view or of another "
        "model, fool images that the model as it is only hid from them.",
        remedy="Believe the lower number, and count the defence as no gain.",
    )


def _black_box(subject: Subject, outcomes: Sequence[Outcome]) -> Iterator[Check]:
    """Compare attacks without gradients with those that use them, where the suite holds both.

    Survivors are all that the former saw, so they may win nothing more by chance; what they find
    alone counts.
    """
    naive = [outcome for outcome in outcomes if outcome.view == "as_is"]
    blind = [outcome for outcome in naive if outcome.settings["name"] in _NO_GRADIENTS]
    led = [outcome for outcome in naive if outcome.settings["name"] not in _NO_GRADIENTS]
    if not blind or not led:
        return
    only_blind = worst_shares(subject, led) - worst_shares(subject, blind) > 0.3
    share = float(only_blind.float().mean())
    many = int(only_blind.sum()) >= 7  # so many of one kind and none of the other: below 1 %
    yield check(
        "B1",
        "Guessing fools more than gradients",
        share,
        "fail" if many and share > 0.02 else grade(share, warn=0.002),
        "Share of images that fell only to attacks that see answers and no gradients. They are "
        "weaker by nature; where they win, gradients are hidden.",
        threshold=0.002,
        remedy=HONEST_VIEW,
    )


def _dynamic(subject: Subject) -> Check:
    unknown = subject.preflight.optimises and not is_defended(subject.model)
    return check(
        "D1",
        "The model searches while it classifies",
        subject.preflight.optimises,
        "fail" if unknown else "pass",
        "1 if the model takes gradients itself for every answer. It may move away from what an "
        "attack found, so an attack must know how it searches.",
        remedy="Declare the search as a defence with an honest view, and attack what lies behind.",
    )
