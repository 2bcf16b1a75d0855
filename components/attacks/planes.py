"""Decision boundaries as planes: linearise a model, find the nearest point of a plane in the box.

Minimum-norm attacks walk from one such point to the next.
"""

import torch
from torch import Tensor

from components.attacks.geometry import distance
from components.tensors import Classifier, Images, Labels, Logits, PerSample

_LARGEST, _SMALLEST = 1e30, 1e-30  # finite stand-ins, so that nothing times infinity is 0
_FIRST_PIXELS = 128  # that L1 looks at before it sorts them all
_NEWTON_STEPS = 64  # far more than it takes: gap and pace shrink by 4 together in each
_OUT_OF_REACH = 1e6  # further than any point of a box
NO_GRADIENT = "the model gives no gradient at its pixels; attack it through its honest view"


def nearest_on_plane(normals: Images, gaps: PerSample, points: Images, norm: str) -> Images:
    """Find the smallest perturbation of each point that reaches its plane and stays in [0, 1].

    That is the shortest one with ``<normal, perturbation> = gap``. With the room of a pixel, its
    distance to the wall it is pushed to, the answer is ``min(t, room)`` for linf,
    ``min(t |normal|, room)`` for L2, each with the t that closes the gap, and for L1 all the room
    of the steepest pixels (Croce and Hein, 2020, https://arxiv.org/abs/1907.02044, section 3.1).

    Args:
        normals: of the planes, of any length.
        gaps: what the inner product of normal and perturbation has to be.
        points: pixels in [0, 1].
        norm: an entry of NORMS.

    Returns:
        Perturbations. A plane that the box keeps out of reach takes all the room there is; one
        without a normal takes nothing.
    """
    flat, start = normals.flatten(1), points.flatten(1)
    slopes = flat.abs()
    steepest = slopes.amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    slopes /= steepest  # so that no square of a slope underflows
    gap = (gaps[:, None].abs() / steepest).clamp_max(_LARGEST)
    signs = flat.sign().mul_(gaps[:, None].sign())
    # Arithmetic on signs: choosing by a mask takes ten times as long on a CPU.
    rooms = torch.addcmul(signs.clamp_min(0), signs, start, value=-1)
    if norm == "l1":
        sizes = _steepest_first(slopes, rooms, gap)
    else:
        sizes = _all_at_once(slopes, rooms, gap, squared=norm == "l2")
    return signs.mul_(sizes).view_as(points)


def rivals(logits: Logits, labels: Labels, count: int | None = None) -> Tensor:
    """Rank the classes other than the label by their logits: the first `count`, or all."""
    others = logits.shape[1] - 1
    taken = others if count is None else min(count, others)
    return logits.scatter(1, labels[:, None], -torch.inf).topk(taken, dim=1).indices


def nearest_plane(
    model: Classifier, points: Images, labels: Labels, classes: Tensor, norm: str
) -> tuple[PerSample, Images, Images, Logits]:
    """Linearise the lead of some classes over the label, and choose the nearest boundary.

    Takes one forward pass, and one backward pass per class.

    Args:
        model: any callable from pixels to logits.
        points: where to linearise.
        labels: the true classes.
        classes: of each image, those that may take the lead; one row per image.
        norm: an entry of NORMS; planes within reach in the box are nearer than those without.

    Returns:
        Of the nearest plane the lead (negative where the label is ahead) and its gradient, the
        perturbation that reaches it, and the logits.

    Raises:
        ValueError: no gradient reaches the pixels.
    """
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(points)
        scores = logits.float()
        leads = scores.gather(1, classes) - scores.gather(1, labels[:, None])
        sums = leads.sum(0).unbind()
    if not leads.requires_grad:
        raise ValueError(NO_GRADIENT)
    images = points.detach()
    chosen, step = torch.zeros_like(images), torch.zeros_like(images)
    lead = torch.zeros(len(images), device=images.device)
    nearest = torch.full_like(lead, torch.inf)
    for k, total in enumerate(sums):
        (gradient,) = torch.autograd.grad(
            total, points, retain_graph=k + 1 < len(sums), allow_unused=True
        )
        if gradient is None:
            raise ValueError(NO_GRADIENT)
        gaps = -leads[:, k].detach()
        candidate = nearest_on_plane(gradient, gaps, images, norm)
        closed = (gradient * candidate).flatten(1).sum(1)
        reached = (closed - gaps).abs() <= 1e-3 * gaps.abs()
        far = distance(candidate, norm) + torch.where(reached, 0.0, _OUT_OF_REACH)
        nearer = far < nearest
        nearest[nearer], lead[nearer] = far[nearer], -gaps[nearer]
        chosen[nearer], step[nearer] = gradient[nearer], candidate[nearer]
    return lead, chosen, step, logits.detach()


def _all_at_once(slopes: Tensor, rooms: Tensor, gap: Tensor, *, squared: bool) -> Tensor:
    """Move every pixel, at the same speed or that of its slope, until the gap is closed.

    What is closed by a time is concave and piecewise linear, so Newton's steps from 0 never
    overshoot and end on the exact time after a few pieces.
    """
    limits = rooms / slopes.clamp_min(_SMALLEST) if squared else rooms
    rates = slopes.square() if squared else slopes
    worth = slopes * rooms
    mask, product = torch.empty_like(slopes), torch.empty_like(slopes)
    time = torch.zeros_like(gap)
    for _ in range(_NEWTON_STEPS):
        full = torch.mul(torch.le(limits, time, out=mask), worth, out=product).sum(1, keepdim=True)
        pace = torch.mul(torch.gt(limits, time, out=mask), rates, out=product).sum(1, keepdim=True)
        later = ((gap - full) / pace.clamp_min(_SMALLEST)).clamp_max(_LARGEST)
        later = torch.maximum(later, time)
        if torch.equal(later, time):
            break
        time = later
    return torch.minimum(time * slopes, rooms) if squared else rooms.clamp(max=time)


def _steepest_first(slopes: Tensor, rooms: Tensor, gap: Tensor) -> Tensor:
    """Fill the pixels one after the other, the steepest first, until the gap is closed."""
    some = min(_FIRST_PIXELS, slopes.shape[1])
    sizes, closed = _fill(slopes, rooms, gap, *slopes.topk(some, dim=1))
    more = (~closed).nonzero().squeeze(1)
    if some < slopes.shape[1] and len(more):
        ordered = slopes[more].sort(dim=1, descending=True, stable=True)
        sizes[more] = _fill(slopes[more], rooms[more], gap[more], *ordered)[0]
    return sizes


def _fill(
    slopes: Tensor, rooms: Tensor, gap: Tensor, steepest: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill the given pixels in their order; also tell whether they were enough."""
    room = rooms.gather(1, pixels)
    worth = steepest * room
    left = (gap - (worth.cumsum(1) - worth)).clamp_min(0)
    taken = torch.minimum(left / steepest.clamp_min(_SMALLEST), room)
    return torch.zeros_like(slopes).scatter(1, pixels, taken), left[:, -1] <= worth[:, -1]
