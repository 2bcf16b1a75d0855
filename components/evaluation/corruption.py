"""Corruption accuracy: images that bad weather, bad lenses and bad compression have spoiled."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from components.augmentations.corruptions import CORRUPTIONS
from components.config import unknown
from components.evaluation.report import Accuracy, CorruptionResult
from components.evaluation.state import State
from components.tensors import Images, Labels, PerSample

SEVERITIES = (1, 2, 3, 4, 5)

_BLOCK = 64
_BLOCKS_PER_PIECE = 16

Judge = Callable[[Images, Labels], PerSample]
"""Gives the share of right answers per image: 0 or 1, or in between for a randomised model."""


def measure_corruptions(
    judge: Judge,
    images: Tensor,
    labels: Labels,
    operations: Sequence[str],
    *,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    state: State | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[CorruptionResult, ...]:
    """Spoil all images with each operation at each severity, and count what is still right.

    Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261; accuracies, where the paper
    gives errors relative to those of AlexNet.

    Images are spoiled in blocks of 64, in their order, each with a random generator of its own
    that depends on seed, operation, severity and the block's number. So the result depends on the
    images' order, but not on the batch size, nor on what else is measured.

    Args:
        judge: the model.
        images: uint8, or float32 in [0, 1].
        labels: the true classes.
        operations: entries of CORRUPTIONS.
        severities: from 1 to 5.
        seed: of everything that is drawn.
        state: where finished work is kept, for an evaluation that is killed and started again.
        advance: told how many spoiled images have been judged.

    Returns:
        A result per operation and severity, in the order given.

    Raises:
        ValueError: an operation is unknown, or there are no images.
    """
    for name in operations:
        if name not in CORRUPTIONS:
            raise ValueError(unknown("corruption", name, CORRUPTIONS))
    results = []
    for name in operations:
        for severity in severities:
            pieces = _judge_pieces(judge, images, labels, name, severity, seed, state, advance)
            shares = torch.cat(list(pieces)).double()
            accuracy = Accuracy.of(float(shares.mean()), len(shares))
            results.append(CorruptionResult(name=name, severity=severity, accuracy=accuracy))
    return tuple(results)


def _judge_pieces(
    judge: Judge,
    images: Tensor,
    labels: Labels,
    name: str,
    severity: int,
    seed: int,
    state: State | None,
    advance: Callable[[int], None] | None,
) -> Iterator[PerSample]:
    """Judge some blocks at a time, or take what an evaluation found that was killed."""
    blocks = list(zip(images.split(_BLOCK), labels.split(_BLOCK), strict=True))
    for first in range(0, len(blocks), _BLOCKS_PER_PIECE):
        piece = blocks[first : first + _BLOCKS_PER_PIECE]
        key = json.dumps(["corruption", name, severity, seed, first])
        known = state.load(key) if state else None
        if known is None:
            shares = [
                judge(_spoil(block, name, severity, seed, number), truth)
                for number, (block, truth) in enumerate(piece, start=first)
            ]
            known = {"shares": torch.cat(shares).cpu()}
            if state:
                state.save(key, known)
        if advance:
            advance(len(known["shares"]))
        yield known["shares"]


def _spoil(block: Tensor, name: str, severity: int, seed: int, number: int) -> Images:
    text = json.dumps([name, severity, seed, number]).encode()
    drawn = int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1
    pixels = block / 255 if block.dtype == torch.uint8 else block
    generator = torch.Generator(block.device).manual_seed(drawn)
    return CORRUPTIONS[name](pixels, severity=severity, generator=generator)
