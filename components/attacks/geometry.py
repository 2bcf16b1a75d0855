"""Norm ball meets pixel box: project, steepest step, random start, distance."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from components.attacks.randomness import normal, uniform
from components.tensors import Images, PerSample

NORMS = ("linf", "l2", "l1")
_BISECTIONS = 40


def project(perturbation: Images, images: Images, epsilon: Tensor, norm: str) -> Images:
    """Find the nearest perturbation inside the ball that keeps pixels in [0, 1].

    It is the projection onto the intersection, not onto the ball and then the box, which would
    waste budget. For L2 the answer is ``clip(s u, lo, hi)`` with the largest ``s <= 1`` that fits
    the ball; for L1 it is ``clip(sign(u) max(|u| - t, 0), lo, hi)`` with the smallest ``t >= 0``
    (Croce and Hein, 2021, https://arxiv.org/abs/2103.01208, proposition 2.1). Bisection finds both.

    Args:
        perturbation: what to bring back, u.
        images: the clean images.
        epsilon: radius, from `radius`; for linf it may differ per pixel.
        norm: an entry of NORMS.
    """
    if norm == "linf":
        low, high = bounds(images, epsilon)
        return torch.clamp(perturbation, low, high)
    inside = torch.clamp(perturbation, -images, 1 - images)
    outside = (_norm(inside, norm) > epsilon).flatten()
    if outside.any():
        shrink = _shrink_l2 if norm == "l2" else _shrink_l1
        inside[outside] = shrink(
            perturbation[outside], images[outside], epsilon.expand(len(images), 1, 1, 1)[outside]
        )
    return inside


def steepest_step(
    gradient: Images,
    points: Images,
    step_size: Tensor,
    norm: str,
    *,
    share: float | Tensor = 0.01,
) -> Images:
    """Give the perturbation of length `step_size` that climbs fastest along the gradient.

    For L1 that is one pixel, too little in many dimensions: the steepest `share` of the pixels
    move alike (SLIDE: Tramer and Boneh, 2019, https://arxiv.org/abs/1904.13000), leaving out those
    that the wall of the box holds. An image without any gradient is not moved.

    Args:
        gradient: at the points.
        points: where the step starts.
        step_size: length in the norm, broadcastable to the images.
        norm: an entry of NORMS.
        share: of the pixels that move, for l1; at least one does. A number, or one per image.
    """
    if norm == "linf":
        return step_size * gradient.sign()
    if norm == "l1":
        return step_size * _sparse_direction(gradient, points, share)
    # Dividing by the largest entry first keeps the squares of a huge gradient finite.
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-38)
    return step_size * gradient / _norm(gradient, norm).clamp_min(1e-12)


def random_start(
    images: Images, epsilon: Tensor, norm: str, seeds: Tensor, *, stream: int
) -> Images:
    """Draw a perturbation: linf uniform on ball and box, else uniform on the ball, then boxed."""
    shape = tuple(images.shape[1:])
    if norm == "linf":
        low, high = bounds(images, epsilon)
        return low + (high - low) * uniform(seeds, shape, stream=stream)
    length = uniform(seeds, (1, 1, 1), stream=4 * stream + 2)
    if norm == "l2":
        direction = normal(seeds, shape, stream=2 * stream)  # takes uniform's 4 s and 4 s + 1
        direction = direction / _norm(direction, norm) * length ** (1 / math.prod(shape))
    else:
        # Exponentials over their sum with one more: uniform on the simplex with its inside.
        sizes = -torch.log1p(-uniform(seeds, shape, stream=4 * stream))
        signs = torch.where(uniform(seeds, shape, stream=4 * stream + 1) < 0.5, -1.0, 1.0)
        direction = signs * sizes / (_norm(sizes, norm) - torch.log1p(-length))
    return torch.clamp(epsilon * direction, -images, 1 - images)


def steepest_perturbation(direction: Images, images: Images, epsilon: Tensor, norm: str) -> Images:
    """Find the perturbation in ball and box with the largest inner product with a direction.

    Args:
        direction: v, of any length.
        images: the clean images.
        epsilon: radius, from `radius`; for linf it may differ per pixel.
        norm: an entry of NORMS.
    """
    low, high = bounds(images, epsilon if norm == "linf" else torch.ones_like(epsilon))
    room = torch.where(direction > 0, high, torch.where(direction < 0, low, 0 * low))
    if norm == "linf":
        return room
    if norm == "l1":
        steepest_first = direction.flatten(1).abs().argsort(1, descending=True)
        rooms = room.flatten(1).abs().gather(1, steepest_first)
        spent = rooms.cumsum(1) - rooms
        taken = torch.minimum(rooms, (epsilon.view(-1, 1) - spent).clamp_min(0))
        sizes = torch.zeros_like(rooms).scatter(1, steepest_first, taken)
        return sizes.view_as(images) * direction.sign()
    # clip(e^t v, lo, hi) grows with t from nothing to all the room there is.
    scaled = direction / direction.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-38)

    def candidate(exponent: Tensor) -> Images:
        return torch.clamp(exponent.exp() * scaled, low, high)

    fits = _norm(room, norm) <= epsilon
    edge = torch.full_like(fits, 60.0, dtype=images.dtype)
    exponent = _bisect(candidate, epsilon, good=-edge, bad=edge, norm=norm)
    return torch.where(fits, room, candidate(exponent))


def bounds(images: Images, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """Give the smallest and largest perturbation of each pixel for linf and pixels in [0, 1]."""
    return torch.maximum(-epsilon, -images), torch.minimum(epsilon, 1 - images)


def perturbed(images: Images, perturbation: Images) -> Images:
    """Add a projected perturbation; the clamp removes what rounding puts outside [0, 1]."""
    return (images + perturbation).clamp(0, 1)


def distance(perturbation: Images, norm: str) -> PerSample:
    """Measure each perturbation in a norm."""
    return _norm(perturbation, norm).flatten()


def dual_norm(gradient: Images, norm: str) -> PerSample:
    """Measure each gradient in the norm that is dual: the climb per unit of perturbation."""
    return distance(gradient, {"linf": "l1", "l2": "l2", "l1": "linf"}[norm])


def radius(epsilon: float | Tensor, images: Images, norm: str) -> Tensor:
    """Turn an epsilon into a tensor that broadcasts to the images.

    Args:
        epsilon: a number, a number per image, or, for linf, a tensor that broadcasts to the images.
        images: the clean images.
        norm: an entry of NORMS.

    Raises:
        ValueError: the norm is unknown, or epsilon is negative, not finite, too large for pixels in
            [0, 1] or of a shape that does not fit.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {list(NORMS)}, got {norm!r}")
    values = torch.as_tensor(epsilon, dtype=images.dtype, device=images.device)
    leading = (None,) * (4 - values.ndim)
    values = values.view(-1, 1, 1, 1) if values.ndim <= 1 else values[leading]
    dimensions = math.prod(images.shape[1:])
    largest = {"linf": 1.0, "l2": math.sqrt(dimensions), "l1": float(dimensions)}[norm]
    allowed = (values >= 0) & (values <= largest)
    if not bool(allowed.all()):
        raise ValueError(
            f"epsilon must be in [0, {largest:g}] for {norm} and pixels in [0, 1], "
            f"got {float(values[~allowed][0]):g}"
        )
    per_pixel = values.shape[1:] != (1, 1, 1)
    if values.ndim != 4 or (per_pixel and norm != "linf"):
        raise ValueError(f"epsilon of shape {tuple(values.shape)} does not fit {norm}")
    try:
        values.expand_as(images)
    except RuntimeError as error:
        raise ValueError(
            f"epsilon of shape {tuple(values.shape)} does not fit images {tuple(images.shape)}"
        ) from error
    return values


def _norm(perturbation: Images, norm: str) -> Tensor:
    flat = perturbation.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1).view(-1, 1, 1, 1)
    return flat.norm(p=2 if norm == "l2" else 1, dim=1).view(-1, 1, 1, 1)


def _shrink_l2(perturbation: Images, images: Images, epsilon: Tensor) -> Images:
    def candidate(scale: Tensor) -> Images:
        return torch.clamp(scale * perturbation, -images, 1 - images)

    return candidate(
        _bisect(
            candidate,
            epsilon,
            good=torch.zeros_like(epsilon),
            bad=torch.ones_like(epsilon),
            norm="l2",
        )
    )


def _shrink_l1(perturbation: Images, images: Images, epsilon: Tensor) -> Images:
    size, sign = perturbation.abs(), perturbation.sign()

    def candidate(threshold: Tensor) -> Images:
        return torch.clamp(sign * (size - threshold).clamp_min(0), -images, 1 - images)

    return candidate(
        _bisect(
            candidate,
            epsilon,
            good=_norm(perturbation, "linf"),
            bad=torch.zeros_like(epsilon),
            norm="l1",
        )
    )


def _bisect(
    candidate: Callable[[Tensor], Images],
    epsilon: Tensor,
    *,
    good: Tensor,
    bad: Tensor,
    norm: str,
) -> Tensor:
    """Close in on the last number, between a good and a bad one, whose candidate fits the ball."""
    for _ in range(_BISECTIONS):
        middle = (good + bad) / 2
        fits = _norm(candidate(middle), norm) <= epsilon
        good = torch.where(fits, middle, good)
        bad = torch.where(fits, bad, middle)
    return good


def _sparse_direction(gradient: Images, points: Images, share: float | Tensor) -> Images:
    """Give the signs of the steepest pixels that have room, divided by their number."""
    stuck = torch.where(gradient > 0, points >= 1, points <= 0)
    slopes = gradient.abs().masked_fill(stuck, 0).flatten(1)
    size = slopes.shape[1]
    shares = torch.as_tensor(share, dtype=slopes.dtype, device=slopes.device).view(-1, 1)
    counts = (shares * size).long().clamp(1, size).expand(len(slopes), 1)
    most = int(counts.max()) if len(slopes) else 0
    last = slopes.topk(most, dim=1).values.gather(1, counts - 1)
    chosen = (slopes >= last) & (slopes > 0)
    direction = chosen / chosen.sum(1, keepdim=True).clamp_min(1)
    return direction.view_as(gradient) * gradient.sign()
