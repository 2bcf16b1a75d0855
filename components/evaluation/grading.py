"""From a measured value to a verdict: thresholds, and the sign test between two attacks."""

import math
from typing import Literal

from torch import Tensor

from components.evaluation.report import Check
from components.tensors import PerSample

Verdict = Literal["pass", "warn", "fail"]

HONEST_VIEW = "Attack through the honest view of the defence, or with attacks without gradients."
TOLERATED = 0.002  # share that a weaker attack may find beyond a stronger one: AutoAttack's own
_EXCESS, _SIGNIFICANT = 0.005, 0.01  # by how much, and how surely, a weaker attack must win to fail
_APART = 0.3  # shares that differ by more differ in 20 draws by more than chance
_LARGEST = 1e9  # of a value: the report's file knows no infinity


def grade(value: float, *, warn: float, fail: float = math.inf) -> Verdict:
    """Give the verdict on a value that should be small: beyond `warn`, beyond `fail`."""
    if value > fail:
        return "fail"
    return "warn" if value > warn else "pass"


def check(
    id: str,
    title: str,
    value: float,
    verdict: Verdict,
    explanation: str,
    *,
    threshold: float = 0.0,
    remedy: str = "Nothing needs to be done.",
) -> Check:
    """Make a check; a value that is no number counts as the largest there is."""
    value = _LARGEST if math.isnan(value) else min(max(float(value), -_LARGEST), _LARGEST)
    return Check(
        id=id,
        title=title,
        value=value,
        threshold=threshold,
        verdict=verdict,
        explanation=explanation,
        remedy=remedy,
    )


def dominance(
    id: str,
    title: str,
    *,
    weaker: PerSample,
    stronger: PerSample,
    compared: Tensor,
    explanation: str,
    remedy: str,
) -> Check:
    """Ask whether the attack that should be weaker finds more than chance allows.

    An exact one-sided sign test on the images that only one of the two fools. A single image is
    put down to chance.

    Args:
        id: of the check.
        title: of the check.
        weaker: share of draws right under the attack that should be weaker, per image.
        stronger: the same under the attack that should be stronger.
        compared: images that both had a chance to fool.
        explanation: of the check.
        remedy: of the check.
    """
    ahead = (stronger - weaker)[compared]
    num_images = max(len(ahead), 1)
    only_weaker, only_stronger = int((ahead > _APART).sum()), int((-ahead > _APART).sum())
    share, excess = only_weaker / num_images, (only_weaker - only_stronger) / num_images
    sure = binomial_tail(only_weaker, only_weaker + only_stronger) < _SIGNIFICANT
    return check(
        id,
        title,
        share,
        "fail" if sure and excess >= _EXCESS else grade(share * (only_weaker > 1), warn=TOLERATED),
        explanation,
        threshold=TOLERATED,
        remedy=remedy,
    )


def binomial_tail(successes: int, trials: int) -> float:
    """Give the chance of at least so many heads among so many throws of a fair coin."""
    ways, term = 0, math.comb(trials, successes)
    for heads in range(successes, trials + 1):
        ways += term
        term = term * (trials - heads) // (heads + 1)
    return ways / 2**trials
