"""Processes: several that train one model together, each on its share of every batch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn


class Processes:
    """This process among those that train together; alone, it has nothing to exchange.

    Gradients are added up in one message after the backward pass, and not while it is under way:
    the attack before it takes many times as long as the message. The share of a batch may be of
    any size, even nothing.

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

    @torch.no_grad()
    def average_gradients(self, model: nn.Module, share: float) -> None:
        """Put the mean over all processes' images in place of that over this one's.

        Args:
            model: after the backward pass; where there was none, its gradients count as zero.
            share: of the images of the batch that this process had.
        """
        if self.world == 1:
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        message = torch.cat([gradient.flatten() for gradient in gradients]).mul_(share)
        dist.all_reduce(message)
        parts = message.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

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

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's running statistics."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone.

    They exchange by nccl on accelerators and by gloo on CPUs, and each takes the accelerator of its
    LOCAL_RANK.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
