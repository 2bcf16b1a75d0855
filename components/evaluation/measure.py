"""Every attack through every view of a model, the worst case per image, and how far it is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from components.attacks.geometry import distance
from components.config import Choice
from components.evaluation.config import EvaluationConfig
from components.evaluation.diagnostics import diagnose
from components.evaluation.outcome import Outcome, Strongest
from components.evaluation.report import Check, View
from components.evaluation.state import State
from components.evaluation.subject import Subject, effort
from components.progress import Progress
from components.tensors import Images, Labels, PerSample
from components.tracking import UNTRACKED, Run

GRADIENT_FREE = ("hop_skip_jump", "random_noise", "spsa", "square")

_CURVE_ATTACK: Choice = {"name": "pgd", "steps": 20, "loss": "margin"}
_CURVE_SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the radius that the report is about
_NEAREST: Choice = {"name": "fmn", "steps": 50}
# Climbed to the end: what fools the other model by much is likelier to fool this one too.
_TRANSFERRED: Choice = {"name": "apgd", "loss": "margin", "keep": "best"}
_SUITE_SHARE = 0.75  # of the budget of time; the rest is for the curve and the checks


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """Everything measured about one model, per image.

    Attributes:
        subject: the model and its images.
        outcomes: of every attack through every view, in the order in which they were tried.
        strongest: the worst adversarial image of each clean one.
        robust: share of draws right under the worst of all attacks.
        naive: the same over the attacks on the model as it is.
        distances: size of the smallest perturbation found that fools the model; infinite where
            none was, zero where the clean image is wrong. None for a randomised model.
        curve: radius and the shares left, rising radius, from 0.
        checks: what speaks for and against the number.
    """

    subject: Subject
    outcomes: tuple[Outcome, ...]
    strongest: Strongest
    robust: PerSample
    naive: PerSample
    distances: PerSample | None
    curve: tuple[tuple[float, PerSample], ...]
    checks: tuple[Check, ...]


def measure(
    model: nn.Module,
    images: Images,
    labels: Labels,
    settings: EvaluationConfig,
    *,
    surrogates: Mapping[str, nn.Module] | None = None,
    state: State | None = None,
    run: Run = UNTRACKED,
) -> Measurement:
    """Attack a model as it is and through its honest view; the worse counts, image by image.

    A randomised model is judged on fresh draws, with the share of draws it gets right.

    Args:
        model: any module from pixels to logits, on the images' device; left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        settings: threat model, attacks, draws, seed.
        surrogates: other models by name, whose adversarial images are tried on this one.
        state: where finished work is kept, for an evaluation that is killed and started again.
        run: gets the progress.

    Raises:
        ValueError: images, labels or logits are not what an attack can work on.
        InvalidAttack: an attack left its threat model.
    """
    subject = Subject(model, images, labels, settings, surrogates=surrogates, state=state)
    strongest = Strongest(images, subject.clean_shares, subject.clean_margins)
    with run.progress(_planned_work(subject), "attack steps") as progress:
        subject.advance = partial(_advance, progress)
        outcomes = tuple(_run_suite(subject, strongest))
        robust, naive = _worst(subject, outcomes), _worst(subject, outcomes, "as_is")
        distances = _measure_distances(subject, strongest)
        curve = _measure_curve(subject, robust, distances)
        checks = diagnose(subject, outcomes, curve=curve, strongest=strongest)
        progress.advance(progress.total - progress.done)
    return Measurement(
        subject=subject,
        outcomes=outcomes,
        strongest=strongest,
        robust=robust,
        naive=naive,
        distances=distances,
        curve=curve,
        checks=checks,
    )


def _run_suite(subject: Subject, strongest: Strongest) -> Iterator[Outcome]:
    """Attack through every view, the honest one first: its number is the one that counts."""
    deadline = _SUITE_SHARE * subject.settings.budget_seconds or math.inf
    for view in _views(subject):
        standing = subject.right
        for choice in _attacks(subject, view):
            outcome = subject.attack(
                choice, view, standing=standing, deadline=deadline, remember=strongest
            )
            yield outcome
            if subject.in_sequence:
                standing = standing & ~outcome.fooled


def _views(subject: Subject) -> list[View]:
    first = [view for view in ("honest", "as_is") if view in subject.views]
    return first + [view for view in subject.views if view not in first]


def _attacks(subject: Subject, view: View) -> list[Choice]:
    """Give the attacks that make sense through a view.

    The difference of logits ratio needs three classes, with targets four; with fewer it gives way
    to the margin. A model without any gradient is met with attacks that need none.
    """
    if view not in ("honest", "as_is"):
        return [_TRANSFERRED]
    attacks = [
        _with_enough_classes(c, subject.preflight.num_classes) for c in subject.settings.attacks
    ]
    if view == "as_is" and not subject.preflight.differentiable:
        blind = [choice for choice in attacks if choice["name"] in GRADIENT_FREE]
        return blind or [{"name": "square"}]
    return attacks


def _with_enough_classes(choice: Choice, num_classes: int) -> Choice:
    targeted = choice["name"] == "apgd_targeted"
    ratio = choice.get("loss", "dlr" if targeted else "") == "dlr"
    return {**choice, "loss": "margin"} if ratio and num_classes < 3 + targeted else choice


def _worst(subject: Subject, outcomes: Sequence[Outcome], view: View | None = None) -> PerSample:
    shares = [outcome.shares for outcome in outcomes if view in (None, outcome.view)]
    return torch.stack([subject.clean_shares, *shares]).amin(0)


def _climbable(subject: Subject) -> View | None:
    """Name the view whose gradients are the best there are; None where there are none."""
    if "honest" in subject.views:
        return "honest"
    return "as_is" if subject.preflight.differentiable else None


def _measure_distances(subject: Subject, strongest: Strongest) -> PerSample | None:
    """Find how far the nearest adversarial image is; what the suite found counts as well."""
    if subject.randomised:
        return None
    wrong = subject.clean_shares == 0
    fooled = (strongest.shares == 0) & ~wrong
    sizes = distance(strongest.images - subject.images, subject.settings.norm)
    distances = torch.where(fooled, sizes, torch.inf)
    if view := _climbable(subject):
        nearest = subject.attack(_NEAREST, view, standing=~wrong, epsilon=math.inf)
        found = torch.where(nearest.fooled, nearest.norms, torch.inf)
        distances = torch.minimum(distances, found)
    return distances.masked_fill(wrong, 0.0)


def _measure_curve(
    subject: Subject, robust: PerSample, distances: PerSample | None
) -> tuple[tuple[float, PerSample], ...]:
    """Measure robustness at several radii with one attack of known strength.

    What has fallen within a ball has fallen within a larger one, so only what still stands is
    attacked. At the radius of the report and above it the suite has its say too.
    """
    settings, view = subject.settings, _climbable(subject)
    largest = subject.whole_box
    left, points = subject.clean_shares, [(0.0, subject.clean_shares)]
    for epsilon in sorted({min(share * settings.epsilon, largest) for share in _CURVE_SHARES}):
        if distances is not None:
            left = left.masked_fill(distances <= epsilon, 0.0)
        if epsilon >= settings.epsilon:
            left = torch.minimum(left, robust)
        if view:
            outcome = subject.attack(_CURVE_ATTACK, view, epsilon=epsilon, standing=left > 0)
            left = torch.minimum(left, outcome.shares)
        points.append((epsilon, left))
    return tuple(points)


def _advance(progress: Progress, work: int) -> None:
    """Count work up to the plan: the checks ask a little more, which nobody could foresee."""
    if work := min(work, progress.total - progress.done - 1):
        progress.advance(work)


def _planned_work(subject: Subject) -> int:
    """Add up what the suite, the search for distances and the curve ask of the model at most."""
    attacks = [choice for view in _views(subject) for choice in _attacks(subject, view)]
    more = [*([] if subject.randomised else [_NEAREST]), *[_CURVE_ATTACK] * len(_CURVE_SHARES)]
    work = sum(effort(subject.complete(choice)) for choice in attacks + more)
    return work * len(subject.images)
