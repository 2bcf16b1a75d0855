"""Do a model's gradients lead anywhere? Section G of the checks, and R1."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from components.attacks.geometry import project, radius, random_start, steepest_step
from components.attacks.gradients import input_gradient, untouched
from components.attacks.losses import logit_odds, margin
from components.evaluation.grading import HONEST_VIEW, Verdict, check, grade
from components.evaluation.report import Check, View
from components.evaluation.subject import Subject
from components.randomness import sample_seeds, uniform
from components.tensors import Images, PerSample

_FEW = 64  # images, where many passes are needed for each
_DIRECTIONS = 16  # per image; the cosine over all pairs is known to about 0.03
_SHAKES = 8
_SHAKE = 4 / 255  # as Pintor et al. have it
_ROUNDED_OFF = {23: -16.6, 10: -9.0, 7: -7.0}  # of logit odds: where cross-entropy loses the truth

_SMOOTH = "Smooth the model for the attack: average its gradient over noise, or use another view."


class Probe:
    """A few images of a subject, and what one view of the model answers about them.

    Randomised models draw the same in every call, so that only the images make a difference.

    Args:
        subject: the model.
        rows: of the images.
        view: who answers.
        seed: of the draws.
    """

    def __init__(
        self, subject: Subject, rows: Tensor, view: View = "as_is", *, seed: int | None = None
    ) -> None:
        self.images, self.labels = subject.images[rows], subject.labels[rows]
        self.seeds = sample_seeds(subject.settings.seed, len(rows), rows.device)
        self.settings, self._subject, self._classify = (
            subject.settings,
            subject,
            subject.views[view],
        )
        self._seed = subject.settings.seed if seed is None else seed

    def margins(self, images: Images) -> PerSample:
        """Say how far images are on the wrong side, in double precision."""
        with torch.no_grad():
            parts = [margin(self._classify(part), true) for part, true in self._parts(images)]
        return torch.cat(parts).double()

    def gradients(self, images: Images) -> tuple[Images, PerSample]:
        """Give the gradient of the margin at images, and their logit odds."""
        gradients, odds = [], []
        for part, true in self._parts(images):
            _, gradient, logits = input_gradient(
                self._classify, part, partial(margin, labels=true), raw=True
            )
            gradients.append(gradient)
            odds.append(logit_odds(logits, true))
        return torch.cat(gradients), torch.cat(odds)

    def _parts(self, images: Images) -> Iterator[tuple[Images, Tensor]]:
        size = self.settings.batch_size
        with torch.random.fork_rng(), untouched(self._subject.model):
            torch.manual_seed(self._seed)
            yield from zip(images.split(size), self.labels.split(size), strict=True)


def check_gradients(subject: Subject, rows: Tensor) -> Iterator[Check]:
    """Look at the gradients an unsuspecting attacker would follow.

    Args:
        subject: the model.
        rows: of the images to look at, all classified correctly.
    """
    available = subject.preflight.differentiable
    yield check(
        "G6",
        "No gradient can be taken",
        not available,
        "pass" if available else "fail",
        "1 if there is no gradient to follow, so that nothing but guessing was tried on the model "
        "as it is.",
        remedy=HONEST_VIEW,
    )
    if not available:
        return
    probe, few = Probe(subject, rows), Probe(subject, rows[:_FEW])
    budget = radius(subject.settings.epsilon, probe.images, subject.settings.norm)
    noise = random_start(probe.images, budget, subject.settings.norm, probe.seeds, stream=0)
    gradient, odds = probe.gradients(probe.images)
    shaken, _ = probe.gradients(probe.images + noise)
    yield _zero_gradients(gradient, shaken)
    yield _saturation(odds, subject.preflight.digits)
    cosine, share = _compare_differences(few)
    yield _gain(probe, gradient, cosine)
    yield _differences(cosine, share)
    yield _alignment(gradient, shaken)
    yield _instability(few)
    if subject.randomised:
        yield _agreement(subject, rows[:_FEW])


def _zero_gradients(gradient: Images, shaken: Images) -> Check:
    useless = torch.zeros(len(gradient), dtype=torch.bool, device=gradient.device)
    for one in (gradient, shaken):
        largest = one.flatten(1).abs().amax(1)
        useless |= (largest == 0) | ~largest.isfinite()
    share = float(useless.float().mean())
    return check(
        "G1",
        "Gradients that are zero or no number",
        share,
        grade(share, warn=0.0, fail=0.01),
        "Share of images at which, or next to which, the model gives an attacker no direction at "
        "all.",
        threshold=0.01,
        remedy=HONEST_VIEW,
    )


def _saturation(odds: PerSample, digits: int) -> Check:
    lowest = next(value for known, value in _ROUNDED_OFF.items() if digits >= known or known == 7)
    share = float((odds < lowest).float().mean())
    return check(
        "G2",
        "Images of which the model is too sure",
        share,
        grade(share, warn=0.01),
        "Share of images so surely classified that the usual loss, cross-entropy, rounds their "
        "gradient away. The attacks here climb losses that do not.",
        threshold=0.01,
        remedy="Distrust numbers from attacks that climb cross-entropy; use the margin.",
    )


def _gain(probe: Probe, gradient: Images, cosine: float) -> Check:
    """Compare what a quarter of the budget along the gradient gains with what it promised."""
    norm = probe.settings.norm
    budget = radius(probe.settings.epsilon / 4, probe.images, norm)
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    step = project(steepest_step(gradient, probe.images, budget, norm), probe.images, budget, norm)
    promised = float((gradient.double() * step).sum())
    gained = probe.margins(probe.images + step) - probe.margins(probe.images)
    ratio = float(gained.sum()) / promised if promised else 0.0
    # A model may bend so much that a step gains little, and yet its gradients be right.
    lost = ratio < 0 or (ratio < 0.3 and cosine < 0.8)
    return check(
        "G3",
        "What a step gains of what its gradient promised",
        ratio,
        "fail" if lost else grade(-ratio, warn=-0.6),
        "1 where the model is straight, less or more where it bends; near 0 or negative where the "
        "gradient points nowhere useful.",
        threshold=0.3,
        remedy=HONEST_VIEW,
    )


def _compare_differences(probe: Probe) -> tuple[float, float]:
    """Compare slopes by the gradient with slopes measured, in random directions.

    Returns:
        The median over images of the cosine between both, and how often their signs agree.
    """
    images = probe.images
    pixels = images[0].numel()
    # Long enough to stand out from rounding, and well within what an attack may change.
    scale = {"linf": 1.0, "l2": pixels**-0.5, "l1": 1 / pixels}[probe.settings.norm]
    length = min(max(probe.settings.epsilon * scale / 4, 0.02 * pixels**-0.5), 0.25)
    inside = images.clamp(length, 1 - length)
    gradient = probe.gradients(inside)[0].nan_to_num(0.0, 0.0, 0.0).double()
    promised, measured = [], []
    for stream in range(_DIRECTIONS):
        drawn = uniform(probe.seeds, tuple(images.shape[1:]), stream=stream)
        direction = torch.where(drawn < 0.5, -length, length)
        ends = probe.margins(inside + direction), probe.margins(inside - direction)
        measured.append(ends[0] - ends[1])
        promised.append(2 * (gradient * direction).flatten(1).sum(1))
    one, other = torch.stack(promised, 1), torch.stack(measured, 1)
    cosines = torch.cosine_similarity(one, other, dim=1, eps=1e-30)
    return float(cosines.median()), float((one * other > 0).double().mean())


def _differences(cosine: float, share: float) -> Check:
    verdict: Verdict = "pass"
    if cosine < 0.5 or share < 0.6:
        verdict = "fail"
    elif cosine < 0.8 or share < 0.9:
        verdict = "warn"
    return check(
        "G4",
        "Agreement of gradients with measured slopes",
        cosine,
        verdict,
        "The slope that the gradient claims, against the change of the answer when the image is "
        "moved a little in random directions: 1 if they agree, 0 if they have nothing to do with "
        f"each other. Uphill and downhill agree in {share:.1%} of directions.",
        threshold=0.5,
        remedy=HONEST_VIEW,
    )


def _alignment(gradient: Images, shaken: Images) -> Check:
    cosines = torch.cosine_similarity(
        gradient.flatten(1).double(), shaken.flatten(1).double(), dim=1, eps=1e-30
    )
    cosine = float(cosines.nan_to_num(0.0).mean())
    return check(
        "G5",
        "Agreement of gradients with those next door",
        cosine,
        grade(-cosine, warn=-0.3),
        "Cosine between the gradient at an image and at a random image within the radius: 1 where "
        "the model is straight, near 0 where its gradients change at every step.",
        threshold=0.3,
        remedy=_SMOOTH,
    )


def _instability(probe: Probe) -> Check:
    """Pintor et al., 2022, https://arxiv.org/abs/2106.09947; on the margin, means over images."""
    margins, changes = probe.margins(probe.images), []
    for stream in range(_SHAKES):
        drawn = uniform(probe.seeds, tuple(probe.images.shape[1:]), stream=_DIRECTIONS + stream)
        shaken = (probe.images + _SHAKE * (2 * drawn - 1)).clamp(0, 1)
        changes.append((probe.margins(shaken) - margins).abs().mean())
    ratio = float(torch.stack(changes).mean() / margins.abs().mean().clamp_min(1e-30))
    return check(
        "G7",
        "Change of the answer under faint noise",
        ratio,
        grade(ratio, warn=0.1),
        "Mean change of the margin under noise of at most 4/255 a pixel, as a share of the margin. "
        "Answers that jump under noise are hard to climb.",
        threshold=0.1,
        remedy=_SMOOTH,
    )


def _agreement(subject: Subject, rows: Tensor) -> Check:
    one, other = (
        Probe(subject, rows, "honest", seed=seed).gradients(subject.images[rows])[0].flatten(1)
        for seed in (subject.settings.seed, subject.settings.seed + 1)
    )
    cosine = float(torch.cosine_similarity(one, other, dim=1).nan_to_num(0.0).median())
    return check(
        "R1",
        "Agreement of two averaged gradients",
        cosine,
        grade(-cosine, warn=-0.5),
        "The model draws at random, so attacks average its gradient over draws. Two such averages "
        "must point alike, or chance leads the attack.",
        threshold=0.5,
        remedy="Raise view_draws.",
    )
