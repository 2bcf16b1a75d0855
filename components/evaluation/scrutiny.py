"""Checks that cost as much as attacks: more effort, other losses, guessing, no defence."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks.gradients import untouched
from components.config import Choice
from components.defences.defended import Defended
from components.evaluation.grading import HONEST_VIEW, check, dominance, grade
from components.evaluation.outcome import Outcome, Strongest
from components.evaluation.recording import check_progress, record
from components.evaluation.report import Check, View
from components.evaluation.sanity import worst_shares
from components.evaluation.subject import Subject
from components.tensors import Images, Logits

_FEW = 128  # images where a model is attacked anew
_PLAIN: Choice = {"name": "pgd", "steps": 20, "loss": "margin"}
_GUESSES = 1000  # queries of the attack without gradients
_WARN, _FAIL = 0.005, 0.01  # of the images: what more effort may find
_MORE = "Give the attacks of the suite more steps and restarts, or add other ones."


def scrutinise(
    subject: Subject, outcomes: Sequence[Outcome], probe: Tensor, strongest: Strongest
) -> Iterator[Check]:
    """Run the checks that cost as much as attacks.

    Args:
        subject: the model.
        outcomes: of the suite.
        probe: images to look at, all classified correctly.
        strongest: the worst adversarial image of each clean one.
    """
    standing = probe & (strongest.shares > 0.5)
    yield from _more_effort(subject, outcomes, probe, strongest)
    if subject.preflight.differentiable:
        yield from check_progress(record(subject, outcomes, standing, _FEW))
        yield from _losses(subject, probe, strongest)
        yield from _guesses(subject, outcomes, probe)
    if subject.randomised:
        yield from _frozen(subject, probe, strongest)
    yield from _without_defence(subject, probe, strongest)


def _more_effort(
    subject: Subject, outcomes: Sequence[Outcome], probe: Tensor, strongest: Strongest
) -> Iterator[Check]:
    """Attack what withstood the suite with more steps, more restarts and other step sizes.

    Of a randomised model everything is attacked again, and means are compared: picking what stood
    by luck would find it fallen the next time.
    """
    view = _climbable(subject)
    if view is None:
        return
    standing = probe if subject.randomised else probe & (strongest.shares > 0)
    climb = next((o.settings for o in outcomes if _climbs(o, view, subject)), None)
    # A step of its own length, a quarter of it and four times as long.
    stride = 2.5 * subject.settings.epsilon / 20
    strides = [{**_PLAIN, "step_size": stride * factor} for factor in (0.25, 1.0, 4.0)]
    efforts: list[tuple[str, str, list[dict[str, Any]]]] = [
        ("C4", "Images that fall to steps of another size", strides)
    ]
    if climb is not None:
        doubled = {**climb, "steps": 2 * climb["steps"]}
        efforts.insert(0, ("C1", "Images that fall to twice as many steps", [doubled]))
        if "restarts" in climb:
            again = {**climb, "restarts": max(5, 2 * climb["restarts"])}
            efforts.insert(1, ("C2", "Images that fall to more restarts", [again]))
    for id, title, choices in efforts:
        runs = [subject.attack(choice, view, standing=standing) for choice in choices]
        if any(run.left_out for run in runs):
            continue
        gains = (strongest.shares - run.shares for run in runs)
        if subject.randomised:
            share = max(float(gain[probe].mean()) for gain in gains)
        else:
            share = float(torch.stack(list(gains)).amax(0)[standing].sum() / probe.sum())
        yield check(
            id,
            title,
            share,
            grade(share, warn=_WARN, fail=_FAIL),
            "Share of images that withstood the suite and fall when its search is given more "
            "effort or another pace. A search that has converged finds nothing more.",
            threshold=_WARN,
            remedy=_MORE,
        )


def _losses(subject: Subject, probe: Tensor, strongest: Strongest) -> Iterator[Check]:
    """Compare cross-entropy with a loss that does not underflow, and with the whole suite."""
    usual, odds = (
        subject.attack({"name": "pgd", "steps": 10, "loss": loss, **_keep(subject)}, standing=probe)
        for loss in ("cross_entropy", "logit_odds")
    )
    if usual.left_out or odds.left_out:
        return
    yield dominance(
        "G2",
        "The usual loss hides what another one finds",
        weaker=odds.shares,
        stronger=usual.shares,
        compared=probe,
        explanation="Logit odds rank all points as cross-entropy does, but their gradient is not "
        "rounded away. Where they fool more, cross-entropy was blind.",
        remedy="Distrust numbers from attacks that climb cross-entropy; use the margin.",
    )
    gap = float((usual.shares - strongest.shares)[probe].mean())
    yield check(
        "L1",
        "How much the usual loss leaves to other ones",
        gap,
        grade(gap, warn=0.1),
        "Share of images that withstand ten steps on cross-entropy and fall to the suite. Much of "
        "it means that the model looks better under the usual attack than it is.",
        threshold=0.1,
        remedy="Never quote an attack on cross-entropy alone.",
    )


def _guesses(subject: Subject, outcomes: Sequence[Outcome], probe: Tensor) -> Iterator[Check]:
    """Compare an attack that sees answers only with all that follow gradients."""
    if any(outcome.settings["name"] == "square" for outcome in outcomes):
        return  # the suite's own is compared without being asked for
    guessing = subject.attack({"name": "square", "queries": _GUESSES}, standing=probe)
    if guessing.left_out:
        return
    led = [outcome for outcome in outcomes if outcome.view == "as_is"]
    yield dominance(
        "B1",
        "Guessing fools more than gradients",
        weaker=guessing.shares,
        stronger=worst_shares(subject, led),
        compared=probe,
        explanation="An attack that sees answers and no gradients is weaker by nature; where it "
        "wins, gradients are hidden.",
        remedy=HONEST_VIEW,
    )


def _frozen(subject: Subject, probe: Tensor, strongest: Strongest) -> Iterator[Check]:
    """Let the model draw the same every time: that must not make it harder to fool."""
    rows = probe.nonzero().squeeze(1)[:_FEW]
    frozen = _subject(subject, _Frozen(subject.model, subject.settings.seed), rows)
    attacked = frozen.attack(_PLAIN, standing=frozen.right)
    fixed, drawn = float(attacked.shares.mean()), float(strongest.shares[rows].mean())
    yield check(
        "R2",
        "How much more withstands without chance",
        fixed - drawn,
        grade(fixed - drawn, warn=0.02, fail=0.1),
        "Robust accuracy when the model always draws the same, less that when it draws anew. "
        "Without chance an attack has it easier, so more than nothing means it failed.",
        threshold=0.02,
        remedy=HONEST_VIEW,
    )


def _without_defence(subject: Subject, probe: Tensor, strongest: Strongest) -> Iterator[Check]:
    """Take the defences off and attack what remains."""
    base = subject.model
    while isinstance(base, Defended):
        base = base.inner
    if base is subject.model:
        return
    rows = probe.nonzero().squeeze(1)[:_FEW]
    bare = _subject(subject, base, rows)
    attacked = float(bare.attack(_PLAIN, standing=bare.right).shares.mean())
    clean, defended = float(bare.clean_shares.mean()), float(strongest.shares[rows].mean())
    yield check(
        "A1",
        "What the attack leaves without the defence",
        attacked,
        "warn" if attacked > 0.99 * clean else "pass",
        f"Robust accuracy once the defence is taken off ({clean:.1%} without attack). An attack "
        "that cannot fool the bare model says nothing about the defended one.",
        threshold=0.99 * clean,
        remedy="Check the attacks on a model that is known to be weak.",
    )
    yield check(
        "T2",
        "What the defence adds",
        defended - attacked,
        grade(attacked - defended, warn=0.02),
        "Robust accuracy with the defence, less that without it under a plain attack. Below zero "
        "the defence does harm; near zero it is of no use.",
        threshold=-0.02,
        remedy="Leave the defence out.",
    )


class _Frozen(nn.Module):
    """A randomised model that draws the same in every pass.

    It keeps its defences to itself: what they say about randomness is not true here.
    """

    def __init__(self, inner: nn.Module, seed: int) -> None:
        super().__init__()
        self._inner, self._seed = [inner], seed

    def forward(self, images: Images) -> Logits:
        with torch.random.fork_rng(), untouched(self._inner[0]):
            torch.manual_seed(self._seed)
            return self._inner[0](images)


def _subject(subject: Subject, model: nn.Module, rows: Tensor) -> Subject:
    settings = replace(subject.settings, thorough=False)
    return Subject(model, subject.images[rows], subject.labels[rows], settings)


def _climbable(subject: Subject) -> View | None:
    if "honest" in subject.views:
        return "honest"
    return "as_is" if subject.preflight.differentiable else None


def _climbs(outcome: Outcome, view: View, subject: Subject) -> bool:
    settings = outcome.settings
    return (
        outcome.view == view and "steps" in settings and settings["norm"] == subject.settings.norm
    )


def _keep(subject: Subject) -> dict[str, str]:
    return {"keep": "last"} if subject.randomised else {}
