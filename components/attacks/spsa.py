"""SPSA: climb along gradients guessed from the margins at random neighbours."""

import math
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import perturbed, project, radius, random_start
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.attacks.sampling import sums_over_directions
from components.randomness import sample_seeds, uniform
from components.tensors import Classifier, Images, Labels, PerSample

_BLOCK = 16  # directions whose signs are the bits of one random number per pixel
_DECAYS = 0.9, 0.999  # of Adam (Kingma and Ba, 2015, algorithm 1)


@torch.no_grad()
def spsa(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: Literal["linf"] = "linf",
    steps: int = 100,
    samples: int = 128,
    delta: float = 0.01,
    step_size: float = 0.01,
    update: Literal["adam", "sign"] = "adam",
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Climb the margin along estimated gradients, which masked gradients cannot mislead.

    Uesato et al., 2018, https://arxiv.org/abs/1802.05666, algorithm 1. Differs from the paper:
    the neighbours stay in [0, 1], and an image is done once it is misclassified; of one that never
    is, the point of largest margin is kept.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: ``linf``.
        steps: estimated gradients.
        samples: neighbours for each of them, an even number: both ends of half as many directions.
        delta: distance of a neighbour in each pixel.
        step_size: in pixel units.
        update: ``adam`` or ``sign`` of the gradient.
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's directions depend on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    _check_options(norm, steps, samples, delta, step_size, update, batch_size)
    budget = radius(epsilon, images, norm).expand(len(images), -1, -1, -1)
    seeds = sample_seeds(seed, len(images), images.device)
    if not len(images):
        return images.clone()
    best, best_margins = images.clone(), torch.full(labels.shape, -torch.inf, device=images.device)
    perturbation = random_start(images, budget, norm, seeds, stream=0)
    mean, square = torch.zeros_like(images), torch.zeros_like(images)
    rows = torch.arange(len(images), device=images.device)
    with untouched(model):
        look = _Look(model, labels, batch_size)
        for step in range(steps + 1):
            points = perturbed(images[rows], perturbation[rows])
            margins = look(rows, points)
            better = margins > best_margins[rows]
            best[rows[better]], best_margins[rows[better]] = points[better], margins[better]
            rows, points = rows[margins <= 0], points[margins <= 0]
            if step == steps or not len(rows):  # many models refuse an empty batch
                break
            slope = _slope(look, points, rows, seeds[rows], samples=samples, delta=delta, step=step)
            if update == "adam":
                mean[rows] = mean[rows].lerp(slope, 1 - _DECAYS[0])
                square[rows] = square[rows].lerp(slope.square(), 1 - _DECAYS[1])
                first, second = (1 - decay ** (step + 1) for decay in _DECAYS)
                way = mean[rows] / first / ((square[rows] / second).sqrt() + 1e-8)
            else:
                way = slope.sign()
            moved = perturbation[rows] + step_size * way
            perturbation[rows] = project(moved, images[rows], budget[rows], norm)
    return best


class _Look:
    """Margins of as many points as are wanted, so many in each forward pass."""

    def __init__(self, model: Classifier, labels: Labels, batch_size: int) -> None:
        self._model, self._labels, self.batch_size = model, labels, batch_size

    def __call__(self, rows: Tensor, points: Images) -> PerSample:
        pairs = zip(
            points.split(self.batch_size), self._labels[rows].split(self.batch_size), strict=True
        )
        return torch.cat([margin(self._model(some), true) for some, true in pairs])


def _slope(
    look: _Look,
    points: Images,
    rows: Tensor,
    seeds: Tensor,
    *,
    samples: int,
    delta: float,
    step: int,
) -> Images:
    """Average the change of the margin along random signs, times the signs."""
    block = math.gcd(samples // 2, _BLOCK)
    shape, powers = points.shape[1:], 2 ** torch.arange(block, device=points.device)

    def draw(chunk: Tensor, number: int) -> Tensor:
        stream = 1 + step * samples + number
        bits = (uniform(seeds[chunk], (1, *shape), stream=stream) * 2**_BLOCK).long()
        return ((bits & powers.view(1, -1, 1, 1, 1)) > 0) * 2.0 - 1

    def measure(chunk: Tensor, signs: Tensor) -> list[Tensor]:
        middle = points[chunk, None]
        ends = torch.cat([middle + delta * signs, middle - delta * signs], 1).clamp_(0, 1)
        margins = look(rows[chunk].repeat_interleave(2 * block), ends.flatten(0, 1))
        above, below = margins.view(len(chunk), 2, block).unbind(1)
        return [signs * (above - below)[..., None, None, None]]

    chunks = torch.arange(len(points), device=points.device)
    at_once = max(look.batch_size // (2 * block), 1)
    blocks = samples // 2 // block
    (total,) = sums_over_directions(draw, measure, chunks, blocks=blocks, at_once=at_once)
    return total / (samples * delta)


def _check_options(
    norm: str,
    steps: int,
    samples: int,
    delta: float,
    step_size: float,
    update: str,
    batch_size: int,
) -> None:
    if norm != "linf":
        raise ValueError(f"norm must be 'linf', got {norm!r}")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    if samples < 2 or samples % 2:
        raise ValueError(f"samples must be even and at least 2, got {samples}")
    if not delta > 0 or not step_size > 0:
        raise ValueError(f"delta and step_size must be above 0, got {delta} and {step_size}")
    if update not in ("adam", "sign"):
        raise ValueError(f"update must be 'adam' or 'sign', got {update!r}")
