"""Auto-PGD's climb: every attempt at every image, in full batches, with automatic steps."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from components.attacks.gradients import input_gradient
from components.attacks.lanes import Lanes, Strongest
from components.attacks.losses import margin
from components.attacks.step_rules import Climb, Halving, Sparsifying, StepRule
from components.randomness import mix
from components.tensors import Classifier, Images, Labels, Logits, PerSample

Objective: TypeAlias = Callable[[Logits, Labels, Labels], PerSample]
"""What to climb: a loss, from logits, the rows of their images, and which attempts these are."""


def climb(
    model: Classifier,
    images: Images,
    labels: Labels,
    objective: Objective,
    *,
    epsilon: Tensor,
    norm: str,
    steps: int,
    attempts: int,
    keep: Literal["first", "best"],
    draws: int,
    batch_size: int,
    seeds: Tensor,
) -> Images:
    """Attempt every image by Auto-PGD until it falls.

    Args:
        model: frozen and in evaluation mode.
        images: at least one.
        labels: the true classes.
        objective: what to climb.
        epsilon: from `radius`.
        norm: an entry of NORMS.
        steps: of each attempt; it takes one more evaluation.
        attempts: at each image.
        keep: ``first`` ends an image with the first attempt that fools the model; ``best`` makes
            all of them to the end.
        draws: forward passes that are averaged.
        batch_size: images per forward pass.
        seeds: one per image.

    Returns:
        The strongest points inside the ball, as `Strongest` has it: of misclassified ones that of
        largest margin, or the first; else that of largest loss.
    """
    rule: StepRule[Any] = Sparsifying(steps) if norm == "l1" else Halving(steps, norm)
    epsilon = epsilon.expand(len(images), -1, -1, -1)
    lanes = Lanes(len(images), attempts=attempts, length=steps + 1, size=batch_size)
    strongest = Strongest(images)

    def begin(chosen: Tensor | slice) -> Climb:
        rows, attempts = (each[chosen].to(images.device) for each in (lanes.rows, lanes.attempts))
        return rule.begin(images[rows], epsilon[rows], mix(seeds[rows] ^ mix(attempts, 0), 0))

    def climbed(logits: Logits) -> PerSample:
        rows, attempts = (each.to(images.device) for each in (lanes.rows, lanes.attempts))
        return objective(logits, rows, attempts)

    state = begin(slice(None))
    while len(lanes):
        losses, gradient, logits = input_gradient(model, state.point, climbed, draws=draws)
        margins = margin(logits, labels[lanes.rows.to(images.device)])
        # All that the CPU has to know, in the only transfer of a step.
        fooled, higher = torch.stack([margins > 0, losses > state.best_loss]).cpu()
        fooled &= rule.counts[lanes.ages]
        rule.learn(state, losses, gradient)
        state.remember(higher.nonzero().flatten().to(images.device), losses)
        if keep == "first":
            fooled, ended = lanes.judge(fooled)
            margins.zero_()
        else:
            _, ended = lanes.judge(torch.zeros_like(fooled))
        strongest.offer(*lanes.at(fooled), state.point, margins, fooled=True)
        strongest.offer(*lanes.at(ended & ~fooled), state.best_point, state.best_loss, fooled=False)
        rule.step(state, lanes.ages)
        moves = lanes.refill(ended)
        state.follow(moves, begin(moves.fresh) if len(moves.fresh) else None)
    return strongest.adversarial


def check_effort(keep: str, **counts: int) -> None:
    """Refuse options that no climb can follow.

    Args:
        keep: as of `climb`.
        counts: by name, of steps, restarts and the like.

    Raises:
        ValueError: a count is below one, or keep is unknown.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if keep not in ("first", "best"):
        raise ValueError(f"keep must be one of ['best', 'first'], got {keep!r}")
