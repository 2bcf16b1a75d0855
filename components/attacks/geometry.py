"""Norm ball meets pixel box: project, steepest step, random start, distance."""

import math

import torch
from torch import Tensor

from components.randomness import normal, uniform
from components.tensors import Images, PerSample

NORMS = ("linf", "l2", "l1")
_NEWTON_STEPS = {"l2": 16, "l1": 30}  # at most; an ordinary case takes 3 and 8
_ROUNDING = 1e-6  # of sums in float32


def project(perturbation: Images, images: Images, epsilon: Tensor, norm: str) -> Images:
    """Find the nearest perturbation inside the ball that keeps pixels in [0, 1].

    It is the projection onto the intersection, not onto the ball and then the box, which would
    waste budget. For L2 the answer is ``clip(s u, lo, hi)`` with the largest ``s <= 1`` that fits
    the ball; for L1 it is ``clip(sign(u) max(|u| - t, 0), lo, hi)`` with the smallest ``t >= 0``
    (Croce and Hein, 2021, https://arxiv.org/abs/2103.01208, proposition 2.1). Newton finds both.

    Args:
        perturbation: what to bring back, u.
        images: the clean images.
        epsilon: radius, from `radius`; for linf it may differ per pixel.
        norm: an entry of NORMS.
    """
    # In place where it can be: fresh memory costs more than the arithmetic.
    wall = images.neg()
    if norm == "linf":
        # A clamp between two bounds that broadcast would take four times as long.
        inside = torch.maximum(perturbation, -epsilon)
        torch.minimum(inside, epsilon, out=inside)
        return inside.clamp_(min=wall).clamp_(max=wall.add_(1))
    inside = perturbation.clamp(min=wall).clamp_(max=wall.add_(1))
    outside = _norm(inside, norm) > epsilon
    if _all_of(~outside):
        return inside
    # Of all, though only some need it: picking these and putting them back would take as long.
    return torch.where(outside, _on_the_sphere(perturbation, images, epsilon, norm), inside)


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
        return gradient.sign().mul_(step_size)
    if norm == "l1":
        return step_size * _sparse_direction(gradient, points, share)
    # Dividing by the largest entry first keeps the squares of a huge gradient finite.
    direction = gradient / _norm(gradient, "linf").clamp_min(1e-38)
    return direction.mul_(step_size / _norm(direction, norm).clamp_min(1e-12))


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
    fits = _norm(room, norm) <= epsilon
    return torch.where(fits, room, _on_the_sphere(direction, images, epsilon, norm))


def bounds(images: Images, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """Give the smallest and largest perturbation of each pixel for linf and pixels in [0, 1]."""
    return torch.maximum(-epsilon, -images), torch.minimum(epsilon, 1 - images)


def perturbed(images: Images, perturbation: Images) -> Images:
    """Add a projected perturbation; the clamp removes what rounding puts outside [0, 1]."""
    return (images + perturbation).clamp_(0, 1)


def brought_back(
    adversarial: Images, images: Images, epsilon: float | Tensor | None, norm: str
) -> Images:
    """Shrink onto the ball what lies outside; the rest stays, bit by bit, what was classified.

    Args:
        adversarial: pixels in [0, 1].
        images: the clean images.
        epsilon: as in `radius`, or None for no limit.
        norm: an entry of NORMS.
    """
    if epsilon is None:
        return adversarial
    budget, perturbation = radius(epsilon, images, norm), adversarial - images
    shrunk = perturbed(images, project(perturbation, images, budget, norm))
    if norm == "linf":
        inside = (perturbation.abs() <= budget).flatten(1).all(1).view(-1, 1, 1, 1)
    else:
        inside = _norm(perturbation, norm) <= budget
    return torch.where(inside, adversarial, shrunk)


def distance(perturbation: Images, norm: str) -> PerSample:
    """Measure each perturbation in a norm."""
    return _norm(perturbation, norm).flatten()


def dual_norm(gradient: Images, norm: str) -> PerSample:
    """Measure each gradient in the norm that is dual: the climb per unit of perturbation."""
    return distance(gradient, {"linf": "l1", "l2": "l2", "l1": "linf"}[norm])


def whole_box(images: Images, norm: str) -> float:
    """Give the radius at which a ball around any image holds every image there is."""
    pixels = math.prod(images.shape[1:])
    return {"linf": 1.0, "l2": math.sqrt(pixels), "l1": float(pixels)}[norm]


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
    largest = whole_box(images, norm)
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


def _on_the_sphere(perturbation: Images, images: Images, epsilon: Tensor, norm: str) -> Images:
    """Project what stays outside the ball when it is cut down to the box."""
    room = torch.empty_like(perturbation)
    room = torch.gt(perturbation, 0, out=room).sub_(images).abs_().flatten(1)
    sizes, limit = perturbation.abs().flatten(1), epsilon.view(-1, 1)
    if norm == "l1":
        sizes.sub_(_threshold(sizes, room, limit)).clamp_(min=0)
    else:
        # Measured by the largest entry, the squares of the others stay finite.
        sizes.div_(sizes.amax(1, keepdim=True).clamp_min(1e-38))
        sizes.mul_(_scale(sizes.square(), room.square(), limit))
    sizes.clamp_(max=room)
    reached = sizes.norm(p=1 if norm == "l1" else 2, dim=1, keepdim=True)
    sizes.mul_((limit / reached.clamp_min_(1e-38)).clamp_max_(1))  # what rounding left outside
    return sizes.view_as(perturbation).copysign_(perturbation)


def _scale(squares: Tensor, walls: Tensor, limit: Tensor) -> Tensor:
    """Solve ``sum_i min(s^2 squares_i, walls_i) = limit^2`` for s.

    The left side is concave in s^2, so Newton's steps from 0 approach the answer from below.
    """
    reached, buffer = limit.square() / squares.sum(1, keepdim=True), torch.empty_like(squares)
    for _ in range(_NEWTON_STEPS["l2"]):
        torch.minimum(torch.mul(squares, reached, out=buffer), walls, out=buffer)
        missing = limit.square() - buffer.sum(1, keepdim=True)
        solved = ~(missing > _ROUNDING * limit.square())
        if _all_of(solved):
            break
        # One where a pixel has room left, as a number: arithmetic with truths takes much longer.
        free = torch.sub(walls, buffer, out=buffer).sign_()
        further = reached + missing / free.mul_(squares).sum(1, keepdim=True)
        reached = torch.where(solved, reached, further)
    return reached.sqrt_()


def _threshold(sizes: Tensor, room: Tensor, limit: Tensor) -> Tensor:
    """Solve ``sum_i min(max(sizes_i - t, 0), room_i) = limit`` for t.

    Newton's steps, and the middle of what is left where a step does not lead into it.
    """
    threshold, buffer = torch.zeros_like(limit), torch.empty_like(sizes)
    low, high = threshold, sizes.amax(1, keepdim=True)
    for _ in range(_NEWTON_STEPS["l1"]):
        torch.sub(sizes, threshold, out=buffer).clamp_(min=0)
        falling = (buffer > 0) & (buffer < room)
        excess = buffer.clamp_(max=room).sum(1, keepdim=True) - limit
        low = torch.where(excess > 0, threshold, low)
        high = torch.where(excess > 0, high, threshold)
        further = threshold + excess / falling.sum(1, keepdim=True)
        further = torch.where((further > low) & (further < high), further, (low + high) / 2)
        solved = excess.abs() <= _ROUNDING * limit
        threshold = torch.where(solved, threshold, further)
        if _all_of(solved):
            break
    return threshold


def _all_of(settled: Tensor) -> bool:
    """Tell whether a search may end; where looking would mean waiting it goes on."""
    return settled.device.type == "cpu" and bool(settled.all())


def _sparse_direction(gradient: Images, points: Images, share: float | Tensor) -> Images:
    """Give the signs of the steepest pixels that have room, divided by their number."""
    stuck = torch.where(gradient > 0, points >= 1, points <= 0)
    slopes = gradient.abs().masked_fill_(stuck, 0).flatten(1)
    size = slopes.shape[1]
    shares = torch.as_tensor(share, dtype=torch.float64).view(-1, 1)
    counts = (shares * size).long().clamp(1, size)
    steepest = slopes.topk(int(counts.max()) if counts.numel() else 0, dim=1).values
    last = steepest.gather(1, counts.to(slopes.device).expand(len(slopes), 1) - 1)
    chosen = (slopes >= last) & (slopes > 0)
    direction = chosen / chosen.sum(1, keepdim=True).clamp_min(1)
    return direction.view_as(gradient).copysign_(gradient)
