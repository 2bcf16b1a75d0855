"""Is the evaluation itself in order? Section S of the checks: what cannot be otherwise."""

import itertools
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import get_args, get_type_hints

import torch

from components.attacks import ATTACKS
from components.attacks.geometry import distance
from components.config import Choice
from components.evaluation.grading import HONEST_VIEW, check, dominance, grade
from components.evaluation.outcome import Outcome, Strongest
from components.evaluation.report import Check
from components.evaluation.subject import Subject
from components.tensors import PerSample

_JUDGED_AGAIN, _FEW = 256, 128  # images
_ANYTHING: tuple[Choice, ...] = (
    {"name": "pgd", "norm": "linf", "steps": 20, "loss": "margin"},
    {"name": "pgd", "norm": "linf", "steps": 50, "loss": "logit_odds", "restarts": 2},
)


def check_evaluation(
    subject: Subject,
    outcomes: Sequence[Outcome],
    curve: Sequence[tuple[float, PerSample]],
    strongest: Strongest,
) -> Iterator[Check]:
    """Look for results that cannot be, whatever the model is like.

    Args:
        subject: the model and its images.
        outcomes: of every attack.
        curve: radius and the shares left there, rising radius.
        strongest: the worst adversarial image of each clean one.
    """
    yield _applied(subject, outcomes)
    yield _never_better(subject, outcomes)
    yield _verified(subject, outcomes, strongest)
    yield from _monotone(subject, outcomes, curve)
    yield from _huge_budget(subject)
    yield _complete(outcomes)


def worst_shares(subject: Subject, outcomes: Sequence[Outcome]) -> PerSample:
    """Give the share of draws that are right under the worst of some attacks, per image."""
    shares = [outcome.shares for outcome in outcomes]
    return torch.stack([subject.clean_shares, *shares]).amin(0)


def _applied(subject: Subject, outcomes: Sequence[Outcome]) -> Check:
    """Look for attacks that returned what they were given, or what another one returned."""
    unchanged = 0.0
    for outcome in outcomes:
        if not _is_minimum_norm(outcome) and bool(outcome.attacked.any()):
            still = (outcome.norms[outcome.attacked] == 0).float().mean()
            unchanged = max(unchanged, float(still))
    copied = any(_copied(subject, one, other) for one, other in itertools.combinations(outcomes, 2))
    return check(
        "S1",
        "Images that an attack left unchanged",
        unchanged,
        "fail" if copied else grade(unchanged, warn=0.01, fail=0.01),
        "Share of images that an attack gave back as they were, largest over attacks."
        + (" Two different attacks gave back the same images." if copied else ""),
        threshold=0.01,
        remedy="Find out whether the attack really ran, and whether there is a gradient at all.",
    )


def _is_minimum_norm(outcome: Outcome) -> bool:
    """Say whether the attack gives the clean image back where it finds nothing."""
    return NoneType in get_args(get_type_hints(ATTACKS[outcome.settings["name"]])["epsilon"])


def _copied(subject: Subject, one: Outcome, other: Outcome) -> bool:
    """Say whether two attacks that differ in name came to the same, without solving the task.

    Two attacks that both find the best point there is agree as well; they fool many images.
    """
    both = one.attacked & other.attacked & ~one.fooled & ~other.fooled
    if one.settings["name"] == other.settings["name"] or int(both.sum()) < 32:
        return False
    same = torch.equal(one.margins[both], other.margins[both])
    return same and bool((one.margins[both] <= subject.clean_margins[both]).all())


def _never_better(subject: Subject, outcomes: Sequence[Outcome]) -> Check:
    worst = torch.stack([subject.clean_shares, *(outcome.shares for outcome in outcomes)])
    better = float((worst.amax(0) > subject.clean_shares).float().mean())
    return check(
        "S2",
        "Images that an attack made easier",
        better,
        grade(better, warn=0.0, fail=0.0),
        "Under attack no image may count as right that was wrong before.",
        remedy="The evaluation itself is at fault: report it.",
    )


def _verified(subject: Subject, outcomes: Sequence[Outcome], strongest: Strongest) -> Check:
    """Judge the images once more that are said to fool the model."""
    pixels = strongest.images
    wrong = ~((pixels >= 0) & (pixels <= 1)).flatten(1).all(1)
    if all(outcome.settings["norm"] == subject.settings.norm for outcome in outcomes):
        largest = max((float(o.settings["epsilon"] or torch.inf) for o in outcomes), default=0.0)
        sizes = distance(pixels - subject.images, subject.settings.norm)
        wrong |= ~(sizes <= largest * (1 + 1e-5) + 1e-6)
    rows = (
        ((strongest.shares == 0) & (subject.clean_shares > 0)).nonzero().squeeze(1)[:_JUDGED_AGAIN]
    )
    if len(rows) and not subject.randomised:
        shares, margins, _ = subject.judge(pixels[rows], subject.labels[rows])
        clearly = margins.abs() > 1e-3 * subject.clean_margins.abs().mean()
        wrong[rows] |= (shares > 0) & clearly
    share = float(wrong.float().mean())
    return check(
        "S3",
        "Adversarial images outside the rules",
        share,
        grade(share, warn=0.0, fail=0.0),
        "Share of the strongest images that leave the radius or the range of pixels, or do not "
        "fool the model when it is asked again.",
        remedy="The attack or the evaluation is at fault: report it.",
    )


def _monotone(
    subject: Subject, outcomes: Sequence[Outcome], curve: Sequence[tuple[float, PerSample]]
) -> Iterator[Check]:
    within = [left for epsilon, left in curve if epsilon <= subject.settings.epsilon]
    # The least of many noisy shares falls with their number, so chance would win.
    if subject.randomised or not within or any(outcome.left_out for outcome in outcomes):
        return
    yield dominance(
        "S4",
        "A plain search or a smaller radius fools more",
        weaker=torch.stack(within).amin(0),
        stronger=worst_shares(subject, outcomes),
        compared=torch.ones_like(subject.right),
        explanation="A plain search, in this radius or a smaller one, fooled images that all "
        "attacks of the suite missed: they were too weak or searched badly.",
        remedy="Add attacks to the suite, with more steps, smaller ones or another loss.",
    )


def _huge_budget(subject: Subject) -> Iterator[Check]:
    """Allow every pixel to change completely: nothing may then stand.

    With half of the range every image can become plain grey, so that all fall but those of the one
    class that grey is taken for.
    """
    right = subject.clean_shares > 0.5
    few = right & (right.cumsum(0) <= _FEW)
    if not subject.preflight.differentiable or len(subject.clean_predictions[few].unique()) < 2:
        return  # a model that gives one answer to everything withstands everything
    grey = torch.full_like(subject.images[:1], 0.5)
    taken_for = subject.judge(grey, subject.labels[:1])[2]
    shares = []
    for epsilon, bound in ((1.0, few), (0.5, few & (subject.labels != taken_for))):
        standing = bound
        for choice in _ANYTHING:
            if bool(standing.any()):
                outcome = subject.attack({**choice, "epsilon": epsilon}, standing=standing)
                if outcome.left_out:
                    return
                standing = standing & ~outcome.fooled
        shares.append(float(standing.sum() / few.sum()))
    yield check(
        "S5",
        "Images that stand although anything is allowed",
        max(shares),
        grade(max(shares), warn=0.01, fail=0.01),
        "With no limit on the change, an attack can turn one image into another, and with half the "
        "range of pixels into plain grey. One that cannot does not see where it is going.",
        threshold=0.01,
        remedy=HONEST_VIEW,
    )


def _complete(outcomes: Sequence[Outcome]) -> Check:
    left_out = sum(outcome.left_out for outcome in outcomes)
    wanted = left_out + sum(int(outcome.attacked.sum()) for outcome in outcomes)
    share = left_out / max(wanted, 1)
    return check(
        "S6",
        "Attacks left out for lack of time",
        share,
        grade(share, warn=0.0, fail=0.01),
        "Share of pairs of an image and an attack that the budget of time left no room for. What "
        "was not attacked counts as withstanding.",
        threshold=0.01,
        remedy="Raise budget_seconds or evaluate fewer images.",
    )
