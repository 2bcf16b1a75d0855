"""CPU time of things that do the same, taken in turns so that a busy machine slows all alike."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Timed:
    """Seconds of each round, and what the last one returned."""

    seconds: list[float] = field(default_factory=list)
    outcome: Tensor | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: "Timed") -> tuple[float, float, float]:
        """Give the median, least and largest ratio to another's time in the same round."""
        ratios = [own / its for own, its in zip(self.seconds, other.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def interleave(
    contenders: dict[str, Callable[[], Tensor]], rounds: int, announce: Callable[[str], None]
) -> dict[str, Timed]:
    """Run every contender once per round; every other round goes backwards."""
    timed = {name: Timed() for name in contenders}
    for number in range(rounds):
        names = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        for name in names:
            announce(name)
            gc.collect()
            start = time.process_time()
            timed[name].outcome = contenders[name]()
            timed[name].seconds.append(time.process_time() - start)
    return timed


def floor(model: nn.Module, images: Tensor, labels: Tensor, units: int) -> Tensor:
    """Take so many forward passes, each with the gradient at the pixels and nothing else."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    points = images.clone().requires_grad_(True)
    for _ in range(units):
        loss = functional.cross_entropy(model(points), labels, reduction="sum")
        torch.autograd.grad(loss, points)
    for parameter in trainable:
        parameter.requires_grad_(True)
    return images
