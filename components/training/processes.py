"""Processes: several that train one model together, each on its share of every batch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class Processes:
    """This process among those that train together; alone, it has nothing to exchange.

    What they find of their shares of a batch is averaged by `components.sharing`; this is all else
    that they tell each other.

    Attributes:
        rank: number of this process, from 0.
        world: how many there are.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes what all have found."""
        return self.rank == 0

    def add_up(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Give the sums over all processes; a value that some do not name counts as 0 there."""
        if self.world == 1:
            return dict(values)
        known: list[list[str]] = [[] for _ in range(self.world)]
        dist.all_gather_object(known, list(values))
        names = sorted({name for theirs in known for name in theirs})
        mine = [values.get(name, 0.0) for name in names]
        sums = torch.tensor(mine, dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    def gather(self, mine: T) -> list[T]:
        """Give what each process has, in the order of their ranks."""
        if self.world == 1:
            return [mine]
        everybodys: list[Any] = [None] * self.world
        dist.all_gather_object(everybodys, mine)
        return everybodys

    def agree(self, wish: bool) -> bool:
        """Give the wish of the one that leads."""
        if self.world == 1:
            return wish
        word = torch.tensor(wish)  # on the CPU, so that nobody waits for an accelerator
        dist.broadcast(word, 0)
        return bool(word)

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.world > 1:
            dist.barrier()


def check_accelerators(processes: int) -> None:
    """Refuse more processes on this machine than it has accelerators, if it has any.

    Raises:
        ValueError: there are fewer of them.
    """
    accelerators = torch.cuda.device_count()
    if 0 < accelerators < processes:
        raise ValueError(
            f"processes must be at most the number of accelerators, {accelerators}, got {processes}"
        )


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone.

    They exchange by nccl on accelerators and by gloo on CPUs, and each takes the accelerator of its
    LOCAL_RANK.

    Raises:
        ValueError: there are fewer accelerators on this machine than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        rank = int(os.environ["LOCAL_RANK"])
        check_accelerators(int(os.environ.get("LOCAL_WORLD_SIZE", rank + 1)))
        torch.cuda.set_device(rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
