"""Sums over many random directions around each image, the same in any company."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def sums_over_directions(
    draw: Callable[[Tensor, int], Tensor],
    measure: Callable[[Tensor, Tensor], Sequence[Tensor]],
    rows: Tensor,
    *,
    blocks: int,
    at_once: int,
) -> list[Tensor]:
    """Add up what is measured along random directions.

    Directions come in blocks, which are added one after the other: how many images and blocks are
    measured at once changes no bit of the sums.

    Args:
        draw: from rows and the number of a block, directions of shape (rows, directions, ...).
        measure: from rows and their directions, what to add up, of shapes (rows, directions, ...).
        rows: of the images; at least one.
        blocks: of directions, for each image.
        at_once: blocks, of all images together, that are measured at once; at least one.

    Returns:
        A sum for each of the things measured, with an entry per row.
    """
    sums: list[list[Tensor]] = []
    for chunk in rows.split(at_once):
        together = at_once // len(chunk)
        totals: list[Tensor] = []
        for first in range(0, blocks, together):
            numbers = range(first, min(first + together, blocks))
            directions = torch.stack([draw(chunk, number) for number in numbers], 1).flatten(0, 1)
            parts = measure(chunk.repeat_interleave(len(numbers)), directions)
            parts = [part.sum(1).unflatten(0, (len(chunk), len(numbers))) for part in parts]
            totals = totals or [torch.zeros_like(part[:, 0]) for part in parts]
            for total, part in zip(totals, parts, strict=True):
                for block in part.unbind(1):
                    total += block
        sums.append(totals)
    return [torch.cat(parts) for parts in zip(*sums, strict=True)]
