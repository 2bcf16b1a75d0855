"""Stream: shuffled, augmented batches of a split of any size, made ahead of the training step."""

import math
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.data.crops import Crop, central_crop
from components.data.index import ROWS_PER_GROUP
from components.data.loading import Loaded, Loader
from components.data.order import AUGMENT, CROP, Order, Span, chance
from components.data.pixels import Pixels, channels_first
from components.tensors import Images, Labels, Targets

_KEEP_BYTES = 512 << 20
_MOST_WORKERS = 8


class Augment(Protocol):
    """What is done to a batch: images in [0, 1] and targets in, the same out."""

    def __call__(
        self, images: Images, targets: Targets, *, generator: torch.Generator
    ) -> tuple[Images, Targets]:
        """Change a batch; all chance comes from the generator."""


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        images: float32 in [0, 1], batch x channels x height x width.
        targets: class probabilities.
        labels: the classes themselves, before anything was mixed.
        rows: positions of the images in the split.
    """

    images: Images
    targets: Targets
    labels: Labels
    rows: Tensor


class Stream:
    """Batches of a split, in an order and with chance that depend on seed and epoch alone.

    Threads read, decode, crop and augment some batches ahead, and hand them out in order; how many
    threads makes no difference to what they give. Memory holds two windows of encoded images, not
    the split; a split of less than 512 MiB is decoded once and kept. With several ranks, each gets
    its share of every batch: together they see every row once per epoch.

    Attributes:
        index: of the data.
        num_images: of the split.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
        buffer_images: int = 8192,
        crop: Crop = central_crop,
        augment: Augment | None = None,
        cache: Path | None = None,
        keep_bytes: int = _KEEP_BYTES,
    ) -> None:
        """Read the index, and nothing else yet.

        Args:
            folder: holds the index; the shards may lie where the index says.
            split: ``train``, ``validation`` or ``test``.
            batch_size: rows per step of all ranks together; the last batch holds what is left.
                Where that is less than one for each rank, all ranks get all of it in training, and
                some get nothing of it in order.
            seed: of order, crops and augmentation.
            rank: which of the processes this is.
            world: how many processes there are.
            workers: threads; None takes one per core, up to eight.
            buffer_images: rows among which the order is fully random, rounded down to row groups.
            crop: gives each image the index's height and width.
            augment: changes each batch.
            cache: folder that keeps shards from a bucket on this machine.
            keep_bytes: a split whose pixels need no more than that is decoded once and kept.

        Raises:
            ValueError: an argument is out of range, or the folder has no such split.
        """
        for name, value in (("batch_size", batch_size), ("buffer_images", buffer_images)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, {world}), got {rank}")
        self._loader = Loader(folder, split, cache=cache, keep_bytes=keep_bytes)
        self.index, self.num_images = self._loader.index, sum(self._loader.sizes)
        self._first_rows = np.cumsum([0, *self._loader.sizes])
        self._batch_size, self._seed, self._rank, self._world = batch_size, seed, rank, world
        self._workers = workers or min(_MOST_WORKERS, _cores())
        self._window_groups = max(1, buffer_images // ROWS_PER_GROUP)
        self._crop, self._augment = crop, augment

    def __len__(self) -> int:
        """Say how many batches an epoch has."""
        return -(-self.num_images // self._batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Give an epoch's batches from number ``start`` on, as if those before had been given.

        Leaving the iterator early stops the threads.

        Raises:
            DamagedShard: a shard is not what was written.
            StorageError: a shard cannot be read.
        """
        return self._batches(epoch, start)

    def in_order(self) -> Generator[Batch, None, None]:
        """Give the batches as they were written, neither randomly cropped nor augmented."""
        return self._batches(None, 0)

    def _batches(self, epoch: int | None, start: int) -> Generator[Batch, None, None]:
        order = Order(self._loader.sizes, self._window_groups, seed=self._seed, epoch=epoch)
        windows: dict[int, _Window] = {}
        pending: deque[Future[Batch]] = deque()
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(self._workers, "batches", initializer=_use_one_thread)
        try:
            for number in range(start, len(self)):
                rank, world = self._rank, self._world
                if epoch is not None and self.batch_images(number) < world:
                    rank, world = 0, 1
                spans = list(order.spans(*self._share(number, rank, world)))
                pieces = self._pieces(pool, order, windows, spans)
                pending.append(pool.submit(self._make, epoch, number, rank, pieces))
                # Threads that are started elsewhere from now on must not inherit the workers' one.
                torch.set_num_threads(threads)
                if len(pending) > 2 * self._workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def batch_images(self, number: int) -> int:
        """Say how many images a batch has, those of the other ranks included."""
        return min(self._batch_size, self.num_images - number * self._batch_size)

    def _share(self, number: int, rank: int, world: int) -> tuple[int, int]:
        """Give first and last position of a rank's part of a batch."""
        first, size = number * self._batch_size, self.batch_images(number)
        return first + size * rank // world, first + size * (rank + 1) // world

    def _pieces(
        self,
        pool: ThreadPoolExecutor,
        order: Order,
        windows: "dict[int, _Window]",
        spans: list[Span],
    ) -> "list[_Piece]":
        """Have the windows of some spans read, and a part of the next one ahead of its time.

        A batch waits for row groups that are ahead of it in the pool's queue and wait for nothing.
        """
        pieces = []
        for span in spans:
            for old in [window for window in windows if window < span.window]:
                del windows[old]
            for number, share in ((span.window, 1.0), (span.window + 1, 0.0)):
                if number == len(order.windows):
                    continue
                if number not in windows:
                    windows[number] = _Window(order.windows[number], *order.rows(number))
                # While a window is used up, the next one is read at the same pace.
                window = windows[number]
                share = share or span.stop / len(windows[span.window].rows)
                wanted = math.ceil(share * len(window.groups))
                for group in window.groups[len(window.loads) : wanted]:
                    window.loads.append(pool.submit(self._loader.load, int(group)))
            pieces.append(_Piece(windows[span.window], span.start, span.stop))
        return pieces

    def _make(self, epoch: int | None, number: int, rank: int, pieces: "list[_Piece]") -> Batch:
        """Make one batch; all its chance is its own."""
        size = sum(piece.stop - piece.start for piece in pieces)
        channels, height, width = self.index.image_shape
        pixels = np.empty((size, channels, height, width), np.uint8)
        labels, rows = np.empty(size, np.int64), np.empty(size, np.int64)
        crops = None
        if epoch is not None:
            crops = np.random.default_rng(chance(self._seed, epoch, CROP, number, rank))
        filled = 0
        for piece in pieces:
            places = slice(filled, filled + piece.stop - piece.start)
            rows[places] = self._gather(piece, pixels[places], labels[places], crops)
            filled = places.stop
        images = torch.div(torch.from_numpy(pixels), 255)
        classes = torch.from_numpy(labels)
        targets = functional.one_hot(classes, len(self.index.classes)).float()
        if self._augment is not None and epoch is not None and size:
            state = chance(self._seed, epoch, AUGMENT, number, rank).generate_state(2)
            generator = torch.Generator().manual_seed(int(state.view(np.uint64)[0]))
            images, targets = self._augment(images, targets, generator=generator)
        return Batch(images, targets, classes, torch.from_numpy(rows))

    def _gather(
        self,
        piece: "_Piece",
        pixels: Pixels,
        labels: NDArray[np.int64],
        crops: np.random.Generator | None,
    ) -> NDArray[np.int64]:
        """Put a piece's images and labels where they belong; give their positions in the split."""
        window, chosen = piece.window, slice(piece.start, piece.stop)
        groups, rows = window.positions[chosen], window.rows[chosen]
        loads = {group: window.loads[group].result() for group in np.unique(groups).tolist()}
        cropped = crops is not None and self._crop is not central_crop
        for group, loaded in loads.items():
            places = np.flatnonzero(groups == group)
            labels[places] = loaded.labels[rows[places]]
            if loaded.pixels is not None and not cropped:
                pixels[places] = loaded.pixels[rows[places]].transpose(0, 3, 1, 2)
            else:
                self._decode(loaded, rows[places], pixels, places, crops if cropped else None)
        return self._first_rows[window.groups[groups]] + rows

    def _decode(
        self,
        loaded: Loaded,
        rows: NDArray[np.int64],
        pixels: Pixels,
        places: NDArray[np.int64],
        crops: np.random.Generator | None,
    ) -> None:
        """Decode images one by one, and crop them to the size of all."""
        height, width = pixels.shape[2:]
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            image = self._loader.decode(loaded, row)
            if crops is None:
                image = central_crop(image, height, width)
            else:
                image = self._crop(image, height, width, crops)
            channels_first(image, pixels[place])


class _Window:
    """Row groups that are in memory together, and the order of their rows."""

    def __init__(
        self, groups: NDArray[np.int64], positions: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        self.groups, self.positions, self.rows = groups, positions, rows
        self.loads: list[Future[Loaded]] = []


class _Piece(NamedTuple):
    """A part of a batch that comes from one window."""

    window: _Window
    start: int
    stop: int


def _cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _use_one_thread() -> None:
    """Keep a worker from splitting its small operations; there are other workers for that."""
    torch.set_num_threads(1)
