"""What an attack saw on its way, image by image, beside what it returned: C3 and C6."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.attacks import ATTACKS
from components.attacks.geometry import distance
from components.attacks.gradients import untouched
from components.attacks.losses import margin
from components.choose import choose
from components.evaluation.grading import check, grade
from components.evaluation.outcome import Outcome
from components.evaluation.report import Check
from components.evaluation.subject import Subject
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels, Logits, PerSample

_UNFINISHED = 0.05  # of all that an attack gained, in the last tenth of its steps
_CLEARLY = 1e-3  # of the mean margin: closer to the boundary, rounding decides


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """One attack on a few images.

    Attributes:
        clean: margins of the clean images.
        path: margins of the points seen, a row for each question asked; minus infinity where an
            image was not part of it or its point lay outside the ball.
        returned: margins of the images the attack gave back.
    """

    clean: PerSample
    path: Tensor
    returned: PerSample


class _Recorder:
    """A classifier that keeps the margins of what it is asked.

    Whose point is whose is told by the nearest clean image: attacks reorder their batches.
    """

    def __init__(
        self, classifier: Classifier, images: Images, labels: Labels, norm: str, epsilon: float
    ) -> None:
        self.path: list[PerSample] = []
        self._classifier, self._images, self._labels = classifier, images, labels
        self._norm, self._largest = norm, epsilon * (1 + 1e-5) + 1e-6

    def __call__(self, points: Images) -> Logits:
        logits = self._classifier(points)
        with torch.no_grad():
            owners = torch.cdist(points.flatten(1), self._images.flatten(1)).argmin(1)
            margins = margin(logits.detach(), self._labels[owners])
            far = distance(points - self._images[owners], self._norm) > self._largest
            row = torch.full((len(self._images),), -torch.inf, device=points.device)
            margins = margins.masked_fill(far, -torch.inf)
            self.path.append(row.scatter_reduce(0, owners, margins, "amax"))
        return logits


def record(
    subject: Subject, outcomes: Sequence[Outcome], rows: Tensor, most: int
) -> Recording | None:
    """Run the suite's first attack that climbs on a few images once more and watch it.

    Args:
        subject: the model.
        outcomes: of the suite.
        rows: per image, whether it may be attacked.
        most: how many of them are.

    Returns:
        What was seen; None for a randomised model, and where the suite has no such attack.
    """
    climbs = [
        outcome.settings
        for outcome in outcomes
        if outcome.view == "as_is"
        and not outcome.left_out
        and "steps" in outcome.settings
        and outcome.settings["norm"] == subject.settings.norm
    ]
    chosen = rows.nonzero().squeeze(1)[:most]
    if not climbs or subject.randomised or not len(chosen):
        return None
    settings = {**climbs[0], **({"keep": "best"} if "keep" in climbs[0] else {})}
    images, labels = subject.images[chosen], subject.labels[chosen]
    craft = choose(ATTACKS, settings, given=("seed", "batch_size"))
    whole = "batch_size" in inspect.signature(craft).parameters
    epsilon = settings["epsilon"] or subject.whole_box
    recorder = _Recorder(subject.model, images, labels, settings["norm"], epsilon)
    with torch.random.fork_rng(), untouched(subject.model):
        adversarial = craft(
            recorder,
            images,
            labels,
            seed=sample_seeds(subject.settings.seed, len(images), images.device),
            **({"batch_size": subject.settings.batch_size} if whole else {}),
        )
    return Recording(
        clean=subject.clean_margins[chosen],
        path=torch.stack(recorder.path),
        returned=subject.judge(adversarial, labels)[1],
    )


def check_path(recording: Recording | None) -> Iterator[Check]:
    """Ask whether an attack lost what it had found: C6."""
    if recording is None:
        return
    clearly = _CLEARLY * recording.clean.abs().mean()
    found, returned = recording.path.amax(0) > clearly, recording.returned > 0
    share = float((found & ~returned).float().mean())
    yield check(
        "C6",
        "Successes that the attack lost again",
        share,
        grade(share, warn=0.0, fail=0.02),
        "Share of images for which the attack saw a point that fools the model on its way and gave "
        "back another one.",
        remedy="Let the attack keep the best point, not the last.",
    )


def check_progress(recording: Recording | None) -> Iterator[Check]:
    """Ask whether an attack was still climbing when it ended: C3.

    Pintor et al., 2022, https://arxiv.org/abs/2106.09947, on the best margin so far.
    """
    if recording is None:
        return
    best = recording.path.cummax(0).values
    last = best[-max(1, len(best) // 10) - 1 if len(best) > 1 else -1]
    gained = (best[-1] - recording.clean).clamp_min(1e-12)
    climbing = (best[-1] - last) / gained > _UNFINISHED
    standing = recording.returned <= 0
    share = float((climbing & standing).sum() / standing.sum().clamp_min(1))
    yield check(
        "C3",
        "Attacks that were still climbing when they ended",
        share,
        grade(share, warn=0.1),
        "Share of images that withstood the attack although its last tenth of steps still gained "
        "more than 5 % of all it had gained.",
        threshold=0.1,
        remedy="Give the attack more steps.",
    )
