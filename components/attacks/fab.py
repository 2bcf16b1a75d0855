"""Fast adaptive boundary attack: walk along the decision boundary towards the clean image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import (
    brought_back,
    distance,
    perturbed,
    radius,
    random_start,
    whole_box,
)
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import margin, targeted_margin
from components.attacks.planes import nearest_on_plane, nearest_plane, rivals
from components.randomness import mix, sample_seeds
from components.tensors import Classifier, Images, Labels, Logits, PerSample

_ROUNDING = 1e-6  # of the largest logit: a smaller margin may be none in another batch
_PREFERENCE = 0.01  # by how much further away a larger margin may be and still be chosen
_TINY = 1e-12  # keeps no distance at all from dividing by zero


@torch.no_grad()
def fab(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor | None,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    targets: int | None = 9,
    step_max: float = 0.1,
    overshoot: float = 1.05,
    backward: float = 0.9,
    keep: Literal["best", "first"] = "best",
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Look for the nearest adversarial image by projections onto linearised boundaries.

    Croce and Hein, 2020, https://arxiv.org/abs/1907.02044, algorithm 1, and with targets as in
    https://arxiv.org/abs/2003.01690, section 4. Differs from the paper: a misclassified point and
    the point a little nearer to the clean image that the search goes on from share one
    linearisation, which saves a forward pass per step; the nearest of several boundaries is chosen
    by its distance in the box; no final search.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images; an
            adversarial image further away is shrunk onto the ball. None for no limit.
        norm: an entry of NORMS.
        steps: gradients per restart and target.
        restarts: the first starts at the clean image, the others at random within half the
            distance found so far, or half of epsilon if that is less.
        targets: searches per image, each for the boundary to one class, in the order in which the
            model ranks them for the clean image; None for one search for whichever is nearest,
            which takes a backward pass per class.
        step_max: in (0, 1], the largest share of the step from the clean image (alpha_max).
        overshoot: at least 1, how far beyond the boundary a step ends (eta).
        backward: in (0, 1], what a misclassified point's perturbation is multiplied with (beta).
        keep: ``best`` follows every search to the end and keeps the nearest adversarial image.
            ``first`` is done with an image once one lies within epsilon (None: anywhere).
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's starts depend on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1]; clean ones where none was found, and where
        the clean image is misclassified already.

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    _check_options(steps, restarts, targets, step_max, overshoot, backward, keep, batch_size)
    budget = radius(epsilon if epsilon is not None else 0.0, images, norm)
    budget = budget.expand(len(images), -1, -1, -1)
    if not len(images):
        return images.clone()
    seeds = sample_seeds(seed, len(images), images.device)
    found = _Nearest(images, None if epsilon is None else budget, norm, first=keep == "first")
    with untouched(model):
        classes, right = _ranked(model, images, labels, targets, batch_size)
        search = _Search(
            model, images, labels, classes, norm, targets is None, step_max, overshoot, backward
        )
        for restart in range(restarts):
            # Half of what is known before the restart, whichever target is searched first.
            reach = found.reach() / 2 if restart else torch.zeros_like(found.reach())
            jobs = _jobs(right & (found.scores >= 0), 1 if targets is None else classes.shape[1])
            begin = partial(_begin, images, reach, norm, seeds, restart)
            _walk(search, found, jobs, begin, steps, batch_size)
    return brought_back(found.adversarial, images, epsilon, norm)


@dataclass(frozen=True)
class _Search:
    """One step of many searches at once; a job is a row: image, rank of its target, steps taken."""

    model: Classifier
    images: Images
    labels: Labels
    classes: Tensor
    norm: str
    untargeted: bool
    step_max: float
    overshoot: float
    backward: float

    def linearise(self, points: Images, jobs: Tensor) -> tuple[PerSample, Images, Logits]:
        """Give a rival's lead over the label, its gradient and the logits."""
        true, rivals = self.labels[jobs[:, 0]], self.classes[jobs[:, 0]]
        if self.untargeted:
            lead, gradient, _, logits = nearest_plane(self.model, points, true, rivals, self.norm)
            return lead, gradient, logits
        target = rivals.gather(1, jobs[:, 1:2]).squeeze(1)
        loss = partial(targeted_margin, labels=true, targets=target)
        return input_gradient(self.model, points, loss)

    def advance(
        self, points: Images, jobs: Tensor, lead: PerSample, gradient: Images, fooled: Tensor
    ) -> Images:
        """Step beyond the plane, from the point and a little from the clean image."""
        clean = self.images[jobs[:, 0]]
        perturbation = points - clean
        kept = 1 - (1 - self.backward) * fooled.to(points.dtype)
        climb = (gradient * perturbation).flatten(1).sum(1)
        gaps = torch.cat([(1 - kept) * climb - lead, climb - lead])
        perturbation *= kept[:, None, None, None]
        bases = torch.cat([clean + perturbation, clean])
        ways = nearest_on_plane(gradient.repeat(2, 1, 1, 1), gaps, bases, self.norm)
        near, far = distance(ways, self.norm).view(2, -1)
        share = (near / (near + far).clamp_min(_TINY)).clamp_max(self.step_max)[:, None, None, None]
        from_point, from_clean = ways.chunk(2)
        perturbation += self.overshoot * from_point
        return perturbed(
            clean, perturbation.mul_(1 - share).add_(self.overshoot * share * from_clean)
        )


class _Nearest:
    """The nearest adversarial image of each; with `first`, the first one within the budget.

    Scores are distances; but one found within the budget by `first` scores below 0, and lower the
    earlier its target. So it does not matter what else is searched at the same time.
    """

    def __init__(self, images: Images, budget: Tensor | None, norm: str, *, first: bool) -> None:
        self.scores = torch.full((len(images),), torch.inf, device=images.device)
        self._images, self.adversarial = images, images.clone()
        self._budget, self._norm, self._first = budget, norm, first

    def offer(self, jobs: Tensor, points: Images, sure: Tensor) -> None:
        """Take note of misclassified points, and of whether rounding cannot change that."""
        rows, ranks, _ = jobs.unbind(1)
        perturbation = points - self._images[rows]
        scores = distance(perturbation, self._norm) * (1 + _PREFERENCE * ~sure)
        if self._first:
            done = sure & self._inside(perturbation, rows)
            scores = torch.where(done, _of_rank(ranks), scores)
        best = self.scores.scatter_reduce(0, rows, scores, "amin")
        won = (scores < self.scores[rows]) & (scores == best[rows])
        self.adversarial[rows[won]] = points[won]
        self.scores = best

    def wanted(self, jobs: Tensor) -> Tensor:
        """Tell which jobs could still change the result."""
        return self.scores[jobs[:, 0]] > _of_rank(jobs[:, 1])

    def reach(self) -> Tensor:
        """Give the distance within which to look on."""
        nearest = self.scores.clamp_max(whole_box(self._images, self._norm)).view(-1, 1, 1, 1)
        return nearest if self._budget is None else torch.minimum(nearest, self._budget)

    def _inside(self, perturbation: Images, rows: Tensor) -> Tensor:
        if self._budget is None:
            return torch.ones_like(rows, dtype=torch.bool)
        budget = self._budget[rows]
        if self._norm == "linf":
            return (perturbation.abs() <= budget).flatten(1).all(1)
        return distance(perturbation, self._norm) <= budget.flatten()


def _walk(
    search: _Search,
    found: _Nearest,
    waiting: Tensor,
    begin: Callable[[Tensor], Images],
    steps: int,
    batch_size: int,
) -> None:
    """Work through the jobs in their order, in full batches: as one is done, another joins."""
    jobs, points = waiting[:0], search.images[:0]
    one_more = torch.tensor([0, 0, 1], device=waiting.device)
    while True:
        if len(jobs) < batch_size and len(waiting):
            waiting = waiting[found.wanted(waiting)]
            joining, waiting = waiting.tensor_split([batch_size - len(jobs)])
            jobs, points = torch.cat([jobs, joining]), torch.cat([points, begin(joining)])
        if not len(jobs):
            return
        lead, gradient, logits = search.linearise(points, jobs)
        margins = margin(logits, search.labels[jobs[:, 0]])
        fooled, sure = margins > 0, margins > _ROUNDING * logits.abs().amax(1)
        found.offer(jobs[fooled], points[fooled], sure[fooled])
        # One look more than steps: the last point is only looked at.
        going = found.wanted(jobs) & (jobs[:, 2] < steps)
        if not going.all():
            kept = going.nonzero().squeeze(1)
            jobs, points, lead = jobs[kept], points[kept], lead[kept]
            gradient, fooled = gradient[kept], fooled[kept]
        if len(jobs):
            points = search.advance(points, jobs, lead, gradient, fooled)
            jobs = jobs + one_more


def _begin(
    images: Tensor, reach: Tensor, norm: str, seeds: Tensor, restart: int, jobs: Tensor
) -> Images:
    """Give the points at which jobs start: the clean images, or random ones within reach."""
    rows, ranks, _ = jobs.unbind(1)
    if not restart or not len(rows):
        return images[rows]
    keys = mix(seeds[rows] ^ mix(ranks, restart), 0)
    return perturbed(images[rows], random_start(images[rows], reach[rows], norm, keys, stream=0))


def _jobs(standing: Tensor, searches: int) -> Tensor:
    """List the searches of the standing images, target by target."""
    rows = standing.nonzero().squeeze(1)
    ranks = torch.arange(searches, device=rows.device).repeat_interleave(len(rows))
    return torch.stack([rows.repeat(searches), ranks, torch.zeros_like(ranks)], 1)


def _of_rank(ranks: Tensor) -> Tensor:
    """Score what was found by the search for a target: the earlier, the lower, and below 0."""
    return -1 / (1.0 + ranks)


def _ranked(
    model: Classifier, images: Images, labels: Labels, targets: int | None, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Rank the other classes by the model's view of the clean images, and tell who is right."""
    logits = torch.cat([model(chunk).float() for chunk in images.split(batch_size)])
    right = margin(logits, labels) <= 0
    return rivals(logits, labels, targets), right


def _check_options(
    steps: int,
    restarts: int,
    targets: int | None,
    step_max: float,
    overshoot: float,
    backward: float,
    keep: str,
    batch_size: int,
) -> None:
    least = {"steps": steps, "restarts": restarts, "batch_size": batch_size}
    for name, value in {**least, "targets": 1 if targets is None else targets}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, share in {"step_max": step_max, "backward": backward}.items():
        if not 0 < share <= 1:
            raise ValueError(f"{name} must be in (0, 1], got {share}")
    if not overshoot >= 1:
        raise ValueError(f"overshoot must be at least 1, got {overshoot}")
    if keep not in ("best", "first"):
        raise ValueError(f"keep must be one of ['best', 'first'], got {keep!r}")
