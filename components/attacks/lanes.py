"""Many attempts at many images, side by side in one batch that stays full.

Some attacks try an image several times, from other starts or towards other classes. An attempt
takes a lane of the batch; when it ends, the next in the queue takes its place.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from components.tensors import Images, PerSample


class Moves(NamedTuple):
    """How the lanes of one step become those of the next."""

    sources: Tensor
    """Lanes that move, so that the batch has no holes,"""
    destinations: Tensor
    """and where they go."""
    size: int
    """Lanes in use afterwards."""
    fresh: Tensor
    """Those of them that start a new attempt."""


class Lanes:
    """Which attempt at which image each lane works on, known to the CPU.

    The first attempt at every image comes first, then the second at each that still stands, and
    so on. A success ends the later attempts at its image and none of the earlier: the outcome is
    the first attempt that succeeds, whatever happened to run beside it.

    Args:
        num_images: to be attempted.
        attempts: at each image, as long as none succeeds.
        length: evaluations of an attempt that fails.
        size: lanes at most.

    Attributes:
        rows: image of each lane.
        attempts: which one at this image, from 0.
        ages: evaluations made before, of this attempt.
    """

    def __init__(self, num_images: int, *, attempts: int, length: int, size: int) -> None:
        self._length, self._rounds, self._round = length, attempts, 0
        self._first_success = torch.full((num_images,), attempts)
        self._waiting = torch.arange(num_images)
        self.rows, self.attempts = self._take(size)
        self.ages = torch.zeros_like(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the indices, rows and attempts of the lanes chosen by a mask."""
        lanes = chosen.nonzero().flatten()
        return lanes, self.rows[lanes], self.attempts[lanes]

    def judge(self, succeeded: Tensor) -> tuple[Tensor, Tensor]:
        """Take in which lanes succeeded now.

        Returns:
            The lanes whose success is the earliest attempt at their image that succeeded so far,
            and all that end with this evaluation.
        """
        self._first_success.scatter_reduce_(
            0, self.rows[succeeded], self.attempts[succeeded], "amin"
        )
        first = self._first_success[self.rows]
        winners = succeeded & (first == self.attempts)
        return winners, (first <= self.attempts) | (self.ages + 1 >= self._length)

    def refill(self, ended: Tensor) -> Moves:
        """Go on to the next evaluation, with other attempts in place of those that ended."""
        self.ages += 1
        holes = ended.nonzero().flatten()
        if not len(holes):
            return Moves(holes, holes, len(self), holes)
        rows, attempts = self._take(len(holes))
        fresh, left = holes[: len(rows)], holes[len(rows) :]
        self.rows[fresh], self.attempts[fresh], self.ages[fresh] = rows, attempts, 0
        size = len(self) - len(left)
        alive = torch.ones(len(self), dtype=torch.bool)
        alive[left] = False
        sources, destinations = alive[size:].nonzero().flatten() + size, left[left < size]
        for state in (self.rows, self.attempts, self.ages):
            state[destinations] = state[sources]
        self.rows, self.attempts, self.ages = (
            state[:size] for state in (self.rows, self.attempts, self.ages)
        )
        return Moves(sources, destinations, size, fresh)

    def _take(self, count: int) -> tuple[Tensor, Tensor]:
        rows = attempts = self._waiting[:0]
        while len(rows) < count and self._round < self._rounds:
            standing = self._waiting[self._first_success[self._waiting] == self._rounds]
            taken = standing[: count - len(rows)]
            rows = torch.cat([rows, taken])
            attempts = torch.cat([attempts, torch.full_like(taken, self._round)])
            self._waiting = standing[len(taken) :]
            if not len(self._waiting):
                self._round += 1
                self._waiting = torch.arange(len(self._first_success))
        return rows, attempts


@dataclass
class LaneState:
    """Tensors with an entry per lane, which move as the lanes do."""

    def follow(self, moves: Moves, fresh: "LaneState | None") -> None:
        """Rearrange all of them in place.

        Args:
            moves: from `Lanes.refill`.
            fresh: state of the attempts that start, if any do.
        """
        for field in fields(self):
            state: Tensor = getattr(self, field.name)
            if len(moves.sources):
                device = state.device
                state[moves.destinations.to(device)] = state[moves.sources.to(device)]
            state = state[: moves.size]
            if fresh is not None:
                state[moves.fresh.to(state.device)] = getattr(fresh, field.name)
            setattr(self, field.name, state)


class Strongest:
    """The best point of each image, the same in whatever order its attempts come in.

    That is a misclassified one of the highest score, or else any of the highest score; of equal
    ones, that of the earliest attempt.
    """

    def __init__(self, images: Images) -> None:
        self.adversarial = images.detach().clone()
        self._fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._scores = torch.full((len(images),), -torch.inf, device=images.device)
        self._attempts = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def offer(
        self,
        lanes: Tensor,
        rows: Tensor,
        attempts: Tensor,
        points: Images,
        scores: PerSample,
        *,
        fooled: bool,
    ) -> None:
        """Keep the points of some lanes where they are better than what there is.

        Args:
            lanes: indices, from `Lanes.at` as are the next two.
            rows: image of each of these lanes.
            attempts: which one at the image.
            points: of every lane of the batch.
            scores: of every lane of the batch, the larger the better.
            fooled: whether the points are misclassified.
        """
        device = points.device
        for attempt in attempts.unique().tolist():  # among whose points no image comes twice
            these = attempts == attempt
            chosen, images = lanes[these].to(device), rows[these].to(device)
            held, kept, score = self._fooled[images], self._scores[images], scores[chosen]
            larger = (score > kept) | ((score == kept) & (attempt < self._attempts[images]))
            better = ~held | larger if fooled else ~held & larger
            chosen, images = chosen[better], images[better]
            self.adversarial[images] = points[chosen]
            self._fooled[images] = fooled
            self._scores[images] = scores[chosen]
            self._attempts[images] = attempt
