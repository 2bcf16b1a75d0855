"""Square: random windows of the perturbation change, and what lowers the true class stays."""

import math
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import bounds, distance, perturbed, project, radius
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.randomness import sample_seeds, uniform
from components.tensors import Classifier, Images, Labels

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of 10 000
_BLOCK = 100  # queries whose random numbers are drawn at once, in stream 1, 2, ...


@torch.no_grad()
def square(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor,
    norm: Literal["linf", "l2", "l1"] = "linf",
    queries: int = 5000,
    p_init: float = 0.8,
    rescale_schedule: bool = False,
    parity: bool = False,
    batch_size: int = 256,
    seed: int | Tensor = 0,
) -> Images:
    """Change random windows of the perturbation and keep what raises the margin, without gradients.

    Andriushchenko et al., 2020, https://arxiv.org/abs/1912.00049, algorithms 2 and 3; for l1 Croce
    and Hein, 2021, https://arxiv.org/abs/2103.01208, section 5. Differs from the papers' code:
    every image has windows, stripes and signs of its own, windows reach the last row and column,
    a square that would change nothing has one channel turned over, and for l2 and l1 the budget
    that the box takes away goes to the other pixels. An image is done once it is misclassified.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or a tensor that broadcasts to the images.
        norm: an entry of NORMS.
        queries: images of each image that the model sees at most.
        p_init: share of the pixels in the first windows, in (0, 1].
        rescale_schedule: stretch the schedule of window sizes, made for 10 000 queries, to
            `queries`. Without it the windows shrink as in AutoAttack, whatever `queries` is.
        parity: leave out the last row and column, and queries that change nothing in, as the
            papers' code does.
        batch_size: images per forward pass.
        seed: one for all, or one per image; an image's windows depend on its own seed alone.

    Returns:
        Adversarial images in the ball and in [0, 1].

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if queries < 1 or batch_size < 1:
        raise ValueError(
            f"queries and batch_size must be at least 1, got {queries} and {batch_size}"
        )
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init must be in (0, 1], got {p_init}")
    budget = radius(epsilon, images, norm).expand(len(images), -1, -1, -1)
    seeds = sample_seeds(seed, len(images), images.device)
    if not len(images):
        return images.clone()
    moves: _Corners | _Mass = (
        _Corners(images, budget, parity) if norm == "linf" else _Mass(images, budget, norm, parity)
    )
    best = images.clone()
    margins = torch.full(labels.shape, -torch.inf, device=images.device)
    rows, numbers = torch.arange(len(images), device=images.device), seeds
    with untouched(model):
        for query in range(queries):
            if query % _BLOCK == 0:
                shape = (_BLOCK, moves.numbers)
                numbers = uniform(seeds[rows], shape, stream=1 + query // _BLOCK)
            side = _side(query * 10_000 / queries if rescale_schedule else query, p_init, images)
            draws = numbers[:, query % _BLOCK].split(batch_size)
            for chunk, drawn in zip(rows.split(batch_size), draws, strict=True):
                if query == 0:
                    candidates = moves.start(chunk, seeds[chunk])
                else:
                    candidates = moves.change(chunk, best[chunk], side, drawn)
                reached = margin(model(candidates), labels[chunk])
                better = (reached > margins[chunk]).nonzero().flatten()
                best[chunk[better]], margins[chunk[better]] = candidates[better], reached[better]
            standing = margins[rows] <= 0
            if not standing.all():
                rows, numbers = rows[standing], numbers[standing]
            if not len(rows):  # many models refuse an empty batch
                break
    return best


def _side(query: float, p_init: float, images: Images) -> int:
    """Give the side of a query's window: its share of the pixels halves as the search goes on."""
    share = p_init / 2 ** sum(query > last for last in _HALVED_AFTER)
    return max(round(math.sqrt(share * images.shape[2] * images.shape[3])), 1)


class _Windows:
    """Where windows may lie in an image."""

    def __init__(self, images: Images, parity: bool) -> None:
        self.channels, self.height, self.width = images.shape[1:]
        self.parity = parity

    def pixels(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Give the places, in a flat channel, of the pixels of windows.

        Args:
            draws: two random numbers per image.
            height: of the window, at most that of the image.
            width: likewise.
        """
        free = 0 if self.parity else 1
        top = (draws[:, :1] * (self.height - height + free)).long()
        left = (draws[:, 1:] * (self.width - width + free)).long()
        down, right = (torch.arange(size, device=draws.device) for size in (height, width))
        inside = (down[:, None] * self.width + right).flatten()
        return (top * self.width + left + inside)[:, None].expand(-1, self.channels, -1)


class _Corners:
    """Linf: every pixel is at one end of what it may be, and a square moves to one end."""

    def __init__(self, images: Images, budget: Tensor, parity: bool) -> None:
        low, high = bounds(images, budget)
        self._low, self._high = perturbed(images, low), perturbed(images, high)
        self._windows = _Windows(images, parity)
        self._size = images[0].numel()
        self.numbers = 3 + images.shape[1]

    def start(self, rows: Tensor, seeds: Tensor) -> Images:
        """Draw vertical stripes, of each channel by itself."""
        up = uniform(seeds, (self._windows.channels, 1, self._windows.width), stream=0) < 0.5
        return torch.where(up, self._high[rows], self._low[rows])

    def change(self, rows: Tensor, points: Images, side: int, draws: Tensor) -> Images:
        """Move each channel of a square to the upper or lower end; the points are used up."""
        windows, flat = self._windows, points.flatten(2)
        pixels = windows.pixels(draws[:, :2], min(side, windows.height), min(side, windows.width))
        first = torch.arange(windows.channels, device=rows.device) * flat.shape[2]
        places = pixels + (rows[:, None] * self._size + first)[..., None]
        low, high = self._low.take(places), self._high.take(places)
        up = draws[:, 3:, None] < 0.5
        if not windows.parity:
            idle = (torch.where(up, high, low) == flat.gather(2, pixels)).all(2).all(1)
            turned = (draws[:, 2:3] * windows.channels).long()
            up[torch.arange(len(up), device=up.device), turned[:, 0], 0] ^= idle
        return flat.scatter_(2, pixels, torch.where(up, high, low)).view_as(points)


class _Mass:
    """L2 and l1: a window takes over what another one holds of the budget."""

    def __init__(self, images: Images, budget: Tensor, norm: str, parity: bool) -> None:
        self._images, self._budget, self._norm = images, budget, norm
        self._windows = _Windows(images, parity)
        self._bumps: dict[tuple[int, int], Tensor] = {}
        self.numbers = 5 + images.shape[1]

    def start(self, rows: Tensor, seeds: Tensor) -> Images:
        """Draw a grid of tiles, each of them two opposite bumps."""
        windows, images = self._windows, self._images[rows]
        side = max(min(windows.height, windows.width) // 5, 1)
        down, right = windows.height // side, windows.width // side
        draws = uniform(seeds, (windows.channels + 1, down, right), stream=0) < 0.5
        signs = torch.where(draws[:, 1:], -1.0, 1.0)
        pairs = self._pairs(side, side)[draws[:, 0].long()].transpose(2, 3)
        tiles = (signs[:, :, :, None, :, None] * pairs[:, None]).flatten(4).flatten(2, 3)
        top, left = (windows.height - down * side) // 2, (windows.width - right * side) // 2
        perturbation = torch.zeros_like(images)
        perturbation[:, :, top : top + down * side, left : left + right * side] = tiles
        return self._fitted(rows, images, perturbation)

    def change(self, rows: Tensor, points: Images, side: int, draws: Tensor) -> Images:
        """Empty two windows and fill the first with what they held and what is left to spend."""
        windows, images = self._windows, self._images[rows]
        side = max(side, 3) // 2 * 2 + 1
        height, width = min(side, windows.height), min(side, windows.width)
        filled = windows.pixels(draws[:, :2], height, width)
        emptied = windows.pixels(draws[:, 2:4], height, width)
        perturbation = (points - images).flatten(2)
        spent = self._mass(perturbation).sum(1, keepdim=True)
        budget = self._budget[rows].flatten(2)
        spare = ((budget.square() if self._norm == "l2" else budget) - spent).clamp_min(0)
        old = perturbation.gather(2, filled)
        held = self._mass(old)
        perturbation.scatter_(2, filled, 0)
        freed = held + self._mass(perturbation.gather(2, emptied))
        perturbation.scatter_(2, emptied, 0)
        pairs = self._pairs(height, width).flatten(1)[(draws[:, 4] < 0.5).long()]
        new = torch.where(draws[:, 5:, None] < 0.5, -1.0, 1.0) * pairs[:, None]
        if height * width > 1:  # a window of one pixel could never turn over
            new = new + old / self._length(held).clamp_min(1e-12)
        if self._norm == "l2":
            mass = freed + spare / windows.channels
        else:  # more than there is: the threshold takes the rest from the smallest pixels
            mass = freed.sum(1, keepdim=True) * windows.channels + spare
        new = new / self._length(self._mass(new)).clamp_min(1e-12) * self._length(mass)
        perturbation.scatter_(2, filled, new)
        return self._fitted(rows, images, perturbation.view_as(images))

    def _mass(self, values: Tensor) -> Tensor:
        """Sum per channel what adds up to the budget: squares for l2, sizes for l1."""
        return (values.square() if self._norm == "l2" else values.abs()).sum(2, keepdim=True)

    def _length(self, mass: Tensor) -> Tensor:
        return mass.sqrt() if self._norm == "l2" else mass

    def _fitted(self, rows: Tensor, images: Images, perturbation: Images) -> Images:
        budget = self._budget[rows]
        if self._norm == "l1":
            return perturbed(images, project(perturbation, images, budget, "l1"))
        for _ in range(2):  # stretched once more with what the box cut off
            size = distance(perturbation, "l2").view(-1, 1, 1, 1).clamp_min(1e-12)
            perturbation = (perturbation * (budget / size)).clamp(-images, 1 - images)
        return perturbed(images, perturbation)

    def _pairs(self, height: int, width: int) -> Tensor:
        """Give two opposite bumps, side by side and one above the other, of length 1."""
        if (height, width) in self._bumps:
            return self._bumps[height, width]
        decay = 2 if self._norm == "l2" else 4  # for l1 few large pixels gain more
        upright, flat = (
            torch.cat([_bump(long // 2, wide, decay), -_bump(long - long // 2, wide, decay)])
            for long, wide in ((height, width), (width, height))
        )
        pairs = torch.stack([flat.T, upright]).to(self._images.device)
        pairs = pairs / self._length(self._mass(pairs.flatten(1)[None])).view(2, 1, 1)
        self._bumps[height, width] = pairs
        return pairs


def _bump(height: int, width: int, decay: int) -> Tensor:
    """Give ``sum_{k >= d} 1 / (k + 1)^decay`` at distance d, in linf, from the middle."""
    down = (torch.arange(height) - height // 2).abs()
    right = (torch.arange(width) - width // 2).abs()
    terms = (torch.arange(max(height, width) // 2 + 1) + 1.0) ** -decay
    return terms.flip(0).cumsum(0).flip(0)[torch.maximum(down[:, None], right)]
