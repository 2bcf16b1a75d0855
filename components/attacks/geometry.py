"""Norm ball meets pixel box: project, steepest step, random start, distance."""

import math

import torch
from torch import Tensor

from components.attacks.randomness import normal, uniform
from components.tensors import Images, PerSample

NORMS = ("linf", "l2")
_BISECTIONS = 40


def project(perturbation: Images, images: Images, epsilon: Tensor, norm: str) -> Images:
    """Find the nearest perturbation inside the ball that keeps pixels in [0, 1].

    It is the projection onto the intersection, not onto the ball and then the box, which would
    waste budget. For L2 the answer is ``clip(s u, lo, hi)`` with the largest ``s <= 1`` that fits
    the ball; the norm grows with ``s``, so bisection finds it.

    Args:
        perturbation: what to bring back, u.
        images: the clean images.
        epsilon: radius, from `radius`; for linf it may differ per pixel.
        norm: an entry of NORMS.
    """
    if norm == "linf":
        return torch.clamp(
            perturbation,
            torch.maximum(-epsilon, -images),
            torch.minimum(epsilon, 1 - images),
        )
    inside = torch.clamp(perturbation, -images, 1 - images)
    outside = (_norm(inside) > epsilon).flatten()
    if outside.any():
        inside[outside] = _shrink(
            perturbation[outside], images[outside], epsilon.expand(len(images), 1, 1, 1)[outside]
        )
    return inside


def steepest_step(gradient: Images, step_size: Tensor, norm: str) -> Images:
    """Give the perturbation of length `step_size` that climbs fastest along the gradient.

    An image without any gradient is not moved.
    """
    if norm == "linf":
        return step_size * gradient.sign()
    # Dividing by the largest entry first keeps the squares of a huge gradient finite.
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-38)
    return step_size * gradient / _norm(gradient).clamp_min(1e-12)


def random_start(
    images: Images, epsilon: Tensor, norm: str, seeds: Tensor, *, stream: int
) -> Images:
    """Draw a perturbation: linf uniform on ball and box, l2 uniform on the ball, then boxed."""
    shape = tuple(images.shape[1:])
    if norm == "linf":
        low = torch.maximum(-epsilon, -images)
        high = torch.minimum(epsilon, 1 - images)
        return low + (high - low) * uniform(seeds, shape, stream=stream)
    direction = normal(seeds, shape, stream=2 * stream)  # takes uniform's 4 s and 4 s + 1
    length = uniform(seeds, (1, 1, 1), stream=4 * stream + 2) ** (1 / math.prod(shape))
    return torch.clamp(epsilon * length * direction / _norm(direction), -images, 1 - images)


def perturbed(images: Images, perturbation: Images) -> Images:
    """Add a projected perturbation; the clamp removes what rounding puts outside [0, 1]."""
    return (images + perturbation).clamp(0, 1)


def distance(perturbation: Images, norm: str) -> PerSample:
    """Measure each perturbation in a norm."""
    if norm == "linf":
        return perturbation.flatten(1).abs().amax(1)
    return perturbation.flatten(1).norm(dim=1)


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
    largest = 1.0 if norm == "linf" else math.prod(images.shape[1:]) ** 0.5
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


def _norm(perturbation: Images) -> Tensor:
    return perturbation.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _shrink(perturbation: Images, images: Images, epsilon: Tensor) -> Images:
    low = torch.zeros_like(epsilon)
    high = torch.ones_like(epsilon)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = _norm(torch.clamp(middle * perturbation, -images, 1 - images)) <= epsilon
        low = torch.where(fits, middle, low)
        high = torch.where(fits, high, middle)
    return torch.clamp(low * perturbation, -images, 1 - images)
