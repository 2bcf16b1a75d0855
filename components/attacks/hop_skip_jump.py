"""HopSkipJump: walk along the decision boundary towards the image, from decisions alone."""

import math
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import brought_back, distance, radius
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.attacks.sampling import sums_over_directions
from components.randomness import normal, sample_seeds, uniform
from components.tensors import Classifier, Images, Labels

_BLOCK = 25  # directions that are drawn and added up together
_FIRST_WIDTH = 0.1  # of the directions, before there is a distance to go by
_LEAST_CHANGE = 1e-5  # of a pixel by a direction: some hundred times the rounding of float32
_MARGIN = 1e-3  # by which the nearest point moves on from the boundary in the end
_SHORTENINGS = 20  # of a step; shorter ones would not be seen in float32


@torch.no_grad()
def hop_skip_jump(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor | None,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 50,
    trials: int = 100,
    directions: int = 100,
    max_directions: int = 10_000,
    gamma: float = 1.0,
    queries: int | None = None,
    keep: Literal["best", "first"] = "best",
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Look for the nearest misclassified image, told only whether a point is misclassified.

    Chen et al., 2020, https://arxiv.org/abs/1904.02144, algorithm 2. Differs from the paper: the
    nearest of all points is kept, not the last one, a thousandth further away so that rounding does
    not undo it, a direction never changes the pixels by less
    than float32 can tell, and the bisections end after as many halvings as their threshold asks
    for, 12 to 24.

    Args:
        model: attacked in evaluation mode and left as it was; only the class of the largest logit
            counts.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images; an
            adversarial image further away is shrunk onto the ball. None for no limit.
        norm: ``linf`` or ``l2``.
        steps: along the boundary.
        trials: images of noise, every other one black and white, among which a misclassified one
            to start from is looked for.
        directions: decisions for the first estimate of the boundary's normal; their number grows
            with the square root of the step, in multiples of 25.
        max_directions: no more than these.
        gamma: width of the directions, times distance / number of pixels; some 50 sees past
            shattered gradients, at the price of a coarser search.
        queries: images of each image that the model sees at most; None for no limit. The defaults
            see about 25 000.
        keep: ``best`` follows every image to the end. ``first`` is done with an image once a point
            is misclassified within epsilon.
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's noise depends on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1]; clean ones where none was found, and where
        the clean image is misclassified already.

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    _check_options(norm, gamma, keep)
    _check_counts(
        steps=steps,
        trials=trials,
        directions=directions,
        max_directions=max_directions,
        queries=1 if queries is None else queries,
        batch_size=batch_size,
    )
    if keep == "first" and epsilon is None:
        raise ValueError("keep 'first' is done at an epsilon, got epsilon None")
    if epsilon is not None:
        radius(epsilon, images, norm)
    seeds = sample_seeds(seed, len(images), images.device)
    if not len(images):
        return images.clone()
    with untouched(model):
        decide = _Decisions(model, labels, queries, batch_size)
        walk = _Walk(decide, images, seeds, norm, gamma)
        walk.start(trials)
        for step in range(1, steps + 1):
            if keep == "first":
                walk.leave(epsilon)
            if not len(walk.rows) or decide.spent:
                break
            walk.step(step, min(max_directions, directions * math.sqrt(step)))
        walk.withdraw()
    return brought_back(walk.nearest, images, epsilon, norm)


class _Decisions:
    """Whether points are misclassified; of an image whose budget is spent none is."""

    def __init__(
        self, model: Classifier, labels: Labels, queries: int | None, batch_size: int
    ) -> None:
        self._model, self._labels, self.batch_size = model, labels, batch_size
        self._left = None if queries is None else torch.full_like(labels, queries)

    @property
    def spent(self) -> bool:
        """Whether no image has any budget left."""
        return self._left is not None and not bool(self._left.any())

    def __call__(self, rows: Tensor, points: Images) -> Tensor:
        """Decide about points, of which those of an image stand next to each other."""
        asked = torch.arange(len(rows), device=rows.device)
        if self._left is not None:
            images, counts = torch.unique_consecutive(rows, return_counts=True)
            earlier = asked - (counts.cumsum(0) - counts).repeat_interleave(counts)
            asked = (earlier < self._left[rows]).nonzero().flatten()
            self._left[images] = (self._left[images] - counts).clamp_min(0)
        answers = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for some in asked.split(self.batch_size) if len(asked) else ():
            answers[some] = margin(self._model(points[some]), self._labels[rows[some]]) > 0
        return answers


class _Walk:
    """Where each image's walk along the boundary is, and the nearest point it came by."""

    def __init__(
        self, decide: _Decisions, images: Images, seeds: Tensor, norm: str, gamma: float
    ) -> None:
        self.nearest = images.clone()
        self._decide, self._images, self._seeds, self._norm = decide, images, seeds, norm
        self._pixels = images[0].numel()
        self._width = gamma / self._pixels
        # The paper's threshold: offset from the boundary that directions can still see past.
        threshold = gamma / (self._pixels ** (1.5 if norm == "l2" else 2))
        self._halvings = min(max(math.ceil(-math.log2(threshold)), 12), 24)
        self._least = torch.full((len(images),), torch.inf, device=images.device)
        self._points, self._distances = images.clone(), torch.zeros_like(self._least)
        self.rows = torch.arange(len(images), device=images.device)

    def start(self, trials: int) -> None:
        """Go from misclassified noise to the boundary; drop images of which none was found."""
        wanted = self.rows[~self._decide(self.rows, self._images)]
        found = torch.zeros_like(self._least, dtype=torch.bool)
        for trial in range(trials):
            if not len(wanted):
                break
            noise = uniform(self._seeds[wanted], tuple(self._images.shape[1:]), stream=trial)
            if trial % 2:  # corners of the box lead where its inside does not
                noise = noise.round()
            fooled = self._decide(wanted, noise)
            self._points[wanted[fooled]], found[wanted[fooled]] = noise[fooled], True
            wanted = wanted[~fooled]
        self.rows = self.rows[found]
        if len(self.rows):
            self._return(self._points[self.rows])

    def leave(self, epsilon: float | Tensor | None) -> None:
        """Drop the images whose nearest point lies within epsilon."""
        within = brought_back(self.nearest, self._images, epsilon, self._norm) == self.nearest
        self.rows = self.rows[~within[self.rows].flatten(1).all(1)]

    def step(self, number: int, directions: float) -> None:
        """Jump along the boundary's normal as far as the points stay misclassified, and return."""
        rows, points = self.rows, self._points[self.rows]
        distances = self._distances[rows]
        widths = (self._width * distances).clamp_min(_LEAST_CHANGE * math.sqrt(self._pixels))
        if number == 1:
            widths = torch.full_like(widths, _FIRST_WIDTH)
        way = self._normal(points, widths, number, directions)
        length = distances / math.sqrt(number)
        jumped, waiting = points.clone(), torch.arange(len(rows), device=rows.device)
        for _ in range(_SHORTENINGS):
            if not len(waiting):
                break
            stride = length[waiting].view(-1, 1, 1, 1)
            tried = (points[waiting] + stride * way[waiting]).clamp_(0, 1)
            fooled = self._decide(rows[waiting], tried)
            jumped[waiting[fooled]] = tried[fooled]
            waiting = waiting[~fooled]
            length = length / 2
        self._return(jumped)

    def withdraw(self) -> None:
        """Go a little further than the boundary, where rounding in another batch can undo it."""
        rows = self._least.isfinite().nonzero().flatten()
        clean, nearest = self._images[rows], self.nearest[rows]
        further = (nearest + _MARGIN * (nearest - clean)).clamp_(0, 1)
        fooled = self._decide(rows, further)
        self.nearest[rows[fooled]] = further[fooled]

    def _normal(self, points: Images, widths: Tensor, step: int, directions: float) -> Images:
        """Estimate where the boundary's normal points, out of the true class (equation 16)."""
        block = min(_BLOCK, math.ceil(directions))
        blocks = round(directions / block)
        shape, widths = (block, *points.shape[1:]), widths.view(-1, 1, 1, 1, 1)
        seeds = self._seeds[self.rows]

        def draw(chunk: Tensor, number: int) -> Tensor:
            stream = (step << 32) + number  # far from those of the trials
            if self._norm == "l2":
                drawn = normal(seeds[chunk], shape, stream=stream)
            else:
                drawn = 2 * uniform(seeds[chunk], shape, stream=stream) - 1
            return drawn / drawn.flatten(2).norm(dim=2)[..., None, None, None]

        def measure(chunk: Tensor, drawn: Tensor) -> list[Tensor]:
            neighbours = (points[chunk, None] + widths[chunk] * drawn).clamp_(0, 1)
            moved = (neighbours - points[chunk, None]) / widths[chunk]
            rows = self.rows[chunk].repeat_interleave(block)
            fooled = self._decide(rows, neighbours.flatten(0, 1)).view(len(chunk), block)
            signs = (fooled * 2.0 - 1)[..., None, None, None]
            return [signs * moved, moved, signs]

        chunks = torch.arange(len(points), device=points.device)
        at_once = max(self._decide.batch_size // block, 1)
        weighed, plain, balance = sums_over_directions(
            draw, measure, chunks, blocks=blocks, at_once=at_once
        )
        mean = balance / (blocks * block)
        # Less the mean, which lowers the variance, unless all agree.
        way = torch.where(mean.abs() == 1, weighed, weighed - mean * plain)
        if self._norm == "linf":
            return way.sign()
        return way / distance(way, "l2").view(-1, 1, 1, 1).clamp_min(1e-12)

    def _return(self, far: Images) -> None:
        """Bisect between misclassified points and the clean images, and note what was reached."""
        clean, rows = self._images[self.rows], self.rows
        reached, perturbation = far, far - clean
        good = distance(perturbation, "linf").view(-1, 1, 1, 1)
        good = torch.ones_like(good) if self._norm == "l2" else good
        bad = torch.zeros_like(good)
        for _ in range(self._halvings):
            middle = (good + bad) / 2
            if self._norm == "l2":
                points = clean + middle * perturbation
            else:
                points = clean + perturbation.clamp(-middle, middle)
            points = points.clamp_(0, 1)
            fooled = self._decide(rows, points).view(-1, 1, 1, 1)
            reached = torch.where(fooled, points, reached)
            good, bad = torch.where(fooled, middle, good), torch.where(fooled, bad, middle)
        distances = distance(reached - clean, self._norm)
        self._points[rows], self._distances[rows] = reached, distances
        nearer = distances < self._least[rows]
        self._least[rows[nearer]] = distances[nearer]
        self.nearest[rows[nearer]] = reached[nearer]


def _check_options(norm: str, gamma: float, keep: str) -> None:
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be one of ['linf', 'l2'], got {norm!r}")
    if not gamma > 0:
        raise ValueError(f"gamma must be above 0, got {gamma}")
    if keep not in ("best", "first"):
        raise ValueError(f"keep must be 'best' or 'first', got {keep!r}")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
