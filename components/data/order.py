"""Order: in which order an epoch gives the rows, known without reading any of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GROUPS, ROWS, CROP, AUGMENT = range(4)  # what chance is for


def chance(seed: int, epoch: int, purpose: int, *number: int) -> np.random.SeedSequence:
    """Give the source of one purpose's random numbers, independent of all others."""
    return np.random.SeedSequence(seed, spawn_key=(epoch, purpose, *number))


class Span(NamedTuple):
    """Neighbours in the order, all within one window.

    Attributes:
        window: its number.
        start: the first one's position in the window.
        stop: the position after the last one's.
    """

    window: int
    start: int
    stop: int


class Order:
    """Row groups in random order, cut into windows; rows in random order within each window.

    A reader that holds a window in memory can give the rows in this order and reads every row group
    once. It depends on the arguments alone, and any place in it is found without what is before it.

    Attributes:
        windows: numbers of the row groups that each window holds.
    """

    def __init__(
        self, sizes: Sequence[int], window_groups: int, *, seed: int = 0, epoch: int | None = None
    ) -> None:
        """Draw the order of the row groups.

        Args:
            sizes: rows of each row group.
            window_groups: how many row groups a window holds.
            seed: with the epoch, all that chance depends on.
            epoch: its number; None leaves everything as it was written.
        """
        self._seed, self._epoch = seed, epoch
        self._sizes = np.asarray(sizes, np.int64)
        groups = np.arange(len(sizes))
        if epoch is not None:
            groups = np.random.default_rng(chance(seed, epoch, GROUPS)).permutation(groups)
        cuts = range(window_groups, len(groups), window_groups)
        self.windows: list[NDArray[np.int64]] = np.split(groups, cuts)
        ends = np.cumsum([self._sizes[window].sum() for window in self.windows])
        self._starts = np.concatenate([[0], ends])

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        """Say which windows' rows lie between two positions in the order."""
        while start < stop:
            window = int(np.searchsorted(self._starts, start, "right")) - 1
            first, end = int(self._starts[window]), int(self._starts[window + 1])
            yield Span(window, start - first, min(stop, end) - first)
            start = min(stop, end)

    def rows(self, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give for each position in a window its group there, and its row in that group."""
        sizes = self._sizes[self.windows[window]]
        groups = np.repeat(np.arange(len(sizes)), sizes)
        rows = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        if self._epoch is None:
            return groups, rows
        source = chance(self._seed, self._epoch, ROWS, window)
        drawn = np.random.default_rng(source).permutation(len(groups))
        return groups[drawn], rows[drawn]
