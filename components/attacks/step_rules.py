"""How Auto-PGD steps and when it steps less: one rule for linf and L2, another for L1."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from components.attacks.geometry import bounds, distance, perturbed, project, steepest_step
from components.attacks.lanes import LaneState
from components.randomness import normal, uniform
from components.tensors import Images, PerSample

_PATIENCE = 0.75  # share of the steps between two checkpoints that has to climb
_CARRIED_ON = 0.25  # weight of going on as before; the paper's alpha is the rest


@dataclass
class Climb(LaneState):
    """Where each lane is, and the best it has seen."""

    point: Images
    direction: Images
    best_point: Images
    best_direction: Images
    best_loss: PerSample

    def remember(self, lanes: Tensor, losses: PerSample) -> None:
        """Take the present points of some lanes for their best."""
        self.best_point[lanes] = self.point[lanes]
        self.best_direction[lanes] = self.direction[lanes]
        self.best_loss[lanes] = losses[lanes]


State = TypeVar("State", bound=Climb)


class StepRule(Protocol[State]):
    """What differs between norms; ages are of each lane's point, and on the CPU."""

    counts: Tensor
    """Whether a point of some age lies in the ball that is asked for."""

    def begin(self, clean: Images, epsilon: Tensor, seeds: Tensor) -> State:
        """Draw random points to start from."""

    def learn(self, climb: State, losses: PerSample, gradient: Images) -> None:
        """Take in what the model says at the points."""

    def step(self, climb: State, ages: Tensor) -> None:
        """Move every lane to its next point."""


@dataclass
class HalvingClimb(Climb):
    """A climb whose steps get shorter."""

    clean: Images
    epsilon: Tensor
    low: Tensor
    high: Tensor
    previous: Images
    step_size: Tensor
    halved: Tensor
    rises: Tensor
    last_loss: PerSample
    checked_loss: PerSample


class Halving:
    """Steps of twice epsilon at first, halved where they stop paying, with momentum.

    Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, algorithm 1. Differs from the published
    code: checkpoints keep their places with few steps, and the loss of the start is known.

    Args:
        steps: of a climb.
        norm: linf or l2.
    """

    def __init__(self, steps: int, norm: str) -> None:
        self._norm = norm
        self.counts = torch.ones(steps + 1, dtype=torch.bool)
        self._windows = torch.zeros(steps + 1, dtype=torch.int64)
        last = 0
        for step in checkpoints(steps):
            self._windows[step], last = step - last, step

    def begin(self, clean: Images, epsilon: Tensor, seeds: Tensor) -> HalvingClimb:
        """Draw a point on the sphere around each image, and clamp it to the box."""
        shape, losses = tuple(clean.shape[1:]), torch.full((len(clean),), -torch.inf)
        losses = losses.to(clean.device)
        if self._norm == "linf":
            low, high = (clean + bound for bound in bounds(clean, epsilon))
            noise = 2 * uniform(seeds, shape, stream=0) - 1
        else:
            low, high = torch.zeros_like(epsilon), torch.ones_like(epsilon)
            noise = normal(seeds, shape, stream=0)
        noise = noise * (epsilon / distance(noise, self._norm).view(-1, 1, 1, 1))
        point = perturbed(clean, project(noise, clean, epsilon, self._norm))
        return HalvingClimb(
            point=point,
            direction=torch.zeros_like(point),
            best_point=point.clone(),
            best_direction=torch.zeros_like(point),
            best_loss=losses.clone(),
            clean=clean,
            epsilon=epsilon,
            low=low,
            high=high,
            previous=point.clone(),
            step_size=2 * epsilon,
            halved=torch.zeros_like(losses, dtype=torch.bool),
            rises=torch.zeros_like(losses),
            last_loss=losses + torch.inf,
            checked_loss=losses,
        )

    def learn(self, climb: HalvingClimb, losses: PerSample, gradient: Images) -> None:
        """Turn gradients into directions, and count the steps that climbed."""
        if self._norm == "linf":
            torch.sign(gradient, out=climb.direction)
        else:
            one = torch.ones((), device=gradient.device)
            climb.direction.copy_(steepest_step(gradient, climb.point, one, self._norm))
        climb.rises += losses > climb.last_loss
        climb.last_loss.copy_(losses)

    def step(self, climb: HalvingClimb, ages: Tensor) -> None:
        """Go three quarters of the way to the steepest step, from where momentum leads."""
        windows = self._windows[ages]
        due = windows.nonzero().flatten()
        if len(due):
            self._check(climb, due.to(climb.point.device), windows[due].to(climb.point.device))
        # x + a (z - x) + (1 - a) (x - x') = (1 - a) (2 x - x') + a z, in the buffers there are
        onward = torch.lerp(climb.previous, climb.point, 2.0, out=climb.previous)
        steepest = torch.addcmul(climb.point, climb.direction, climb.step_size, out=climb.direction)
        steepest = self._project(climb, steepest)
        moved = torch.lerp(onward, steepest, 1 - _CARRIED_ON, out=climb.previous)
        moved = self._project(climb, moved)
        first = (ages == 0).nonzero().flatten()
        if len(first):  # nothing yet to carry on with
            first = first.to(moved.device)
            moved[first] = steepest[first]
        climb.point, climb.previous = moved, climb.point

    def _check(self, climb: HalvingClimb, due: Tensor, windows: Tensor) -> None:
        """Halve the steps of lanes where too few climbed or none led higher, from their best."""
        stalled = climb.rises[due] < _PATIENCE * windows
        unimproved = climb.best_loss[due] <= climb.checked_loss[due]
        halve = stalled | (unimproved & ~climb.halved[due])
        pixels = halve.view(-1, 1, 1, 1)
        climb.step_size[due] *= torch.where(pixels, 0.5, 1.0)
        climb.point[due] = torch.where(pixels, climb.best_point[due], climb.point[due])
        climb.direction[due] = torch.where(pixels, climb.best_direction[due], climb.direction[due])
        climb.halved[due], climb.rises[due] = halve, 0
        climb.checked_loss[due] = climb.best_loss[due]

    def _project(self, climb: HalvingClimb, points: Images) -> Images:
        if self._norm != "linf":
            shift = project(points - climb.clean, climb.clean, climb.epsilon, self._norm)
            torch.add(climb.clean, shift, out=points)
        return torch.clamp(points, climb.low, climb.high, out=points)


@dataclass
class SparseClimb(Climb):
    """A climb in L1, most of whose pixels do not move."""

    clean: Images
    epsilon: Tensor
    radius: Tensor
    step_size: Tensor
    share: PerSample
    num_moved: PerSample


class Sparsifying:
    """Steps along as few pixels as the best point has, in a ball that shrinks to epsilon.

    Croce and Hein, 2021, https://arxiv.org/abs/2103.01208, algorithm 1 and section 3.3.

    Args:
        steps: of a climb: 30 % at three times the radius, 30 % at twice, the rest at epsilon.
    """

    def __init__(self, steps: int) -> None:
        phase = 3 * steps // 10
        self._factors = torch.ones(steps + 1)
        if phase:
            self._factors[: 2 * phase + 1], self._factors[: phase + 1] = 2.0, 3.0
        self.counts = self._factors == 1
        self._due = torch.zeros(steps + 1, dtype=torch.bool)
        every = max(steps // 25, 1)
        for start, end in ((0, phase), (phase, 2 * phase), (2 * phase, steps)):
            self._due[start + every : end + 1 : every] = True

    def begin(self, clean: Images, epsilon: Tensor, seeds: Tensor) -> SparseClimb:
        """Draw Gaussian noise, brought back into ball and box."""
        radius = epsilon * self._factors[0].item()
        noise = normal(seeds, tuple(clean.shape[1:]), stream=0)
        point = perturbed(clean, project(noise, clean, radius, "l1"))
        losses = torch.full((len(clean),), -torch.inf, device=clean.device)
        return SparseClimb(
            point=point,
            direction=torch.zeros_like(point),
            best_point=point.clone(),
            best_direction=torch.zeros_like(point),
            best_loss=losses,
            clean=clean,
            epsilon=epsilon,
            radius=radius,
            step_size=radius.clone(),
            share=torch.full_like(losses, 0.2),
            num_moved=torch.full_like(losses, clean[0].numel()),
        )

    def learn(self, climb: SparseClimb, losses: PerSample, gradient: Images) -> None:  # noqa: ARG002
        """Keep the gradients; which of their pixels matter depends on the step."""
        climb.direction.copy_(gradient)

    def step(self, climb: SparseClimb, ages: Tensor) -> None:
        """Move the steepest pixels of every lane; shrink the ball of those whose phase is over."""
        device = climb.point.device
        due = self._due[ages].nonzero().flatten()
        if len(due):
            self._check(climb, due.to(device))
        step = steepest_step(climb.direction, climb.point, climb.step_size, "l1", share=climb.share)
        shift = climb.point + step - climb.clean
        climb.point = perturbed(climb.clean, project(shift, climb.clean, climb.radius, "l1"))
        factors = self._factors[ages]
        following = self._factors[(ages + 1).clamp_max(len(self._factors) - 1)]
        over = (following < factors).nonzero().flatten()
        if len(over):
            self._shrink(climb, over.to(device), following[over].to(device).view(-1, 1, 1, 1))

    def _check(self, climb: SparseClimb, due: Tensor) -> None:
        """Where the best point got sparser start again from it, elsewhere step less."""
        num_moved, radius = _num_moved(climb, due), climb.radius[due]
        sparser = num_moved < 0.95 * climb.num_moved[due]
        pixels = sparser.view(-1, 1, 1, 1)
        shorter = (climb.step_size[due] / 1.5).clamp_min(radius / 10)
        climb.step_size[due] = torch.where(pixels, radius, shorter)
        climb.point[due] = torch.where(pixels, climb.best_point[due], climb.point[due])
        climb.direction[due] = torch.where(pixels, climb.best_direction[due], climb.direction[due])
        climb.num_moved[due] = num_moved
        climb.share[due] = num_moved / climb.clean[0].numel() / 1.5

    def _shrink(self, climb: SparseClimb, over: Tensor, factors: Tensor) -> None:
        """Go on from the best point, brought back into a smaller ball."""
        clean, radius = climb.clean[over], climb.epsilon[over] * factors
        shift = project(climb.best_point[over] - clean, clean, radius, "l1")
        climb.point[over] = climb.best_point[over] = perturbed(clean, shift)
        climb.radius[over] = climb.step_size[over] = radius
        climb.best_loss[over] = -torch.inf
        climb.num_moved[over] = num_moved = _num_moved(climb, over)
        climb.share[over] = num_moved / climb.clean[0].numel() / 1.5


def checkpoints(steps: int) -> list[int]:
    """Give the numbers of steps after which a climb checks its step size.

    Croce and Hein, 2020, https://arxiv.org/abs/2003.01690, section 3.2. In whole percent: sums of
    such fractions round.
    """
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return sorted({-(-share * steps // 100) for share in shares[1:-1]})


def _num_moved(climb: SparseClimb, lanes: Tensor) -> PerSample:
    moved = climb.best_point[lanes] != climb.clean[lanes]
    return moved.flatten(1).sum(1).float()
