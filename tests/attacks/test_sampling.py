"""Sums over directions: what a loop over images, blocks and directions adds up."""

import pytest
import torch

from components.attacks.sampling import sums_over_directions
from components.randomness import normal


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 100])
def test_the_sum_of_all_blocks_of_every_row_in_order(at_once):
    seeds, rows = torch.arange(10, 20), torch.tensor([1, 4, 2, 9])
    asked = []

    def draw(chunk, number):
        return normal(seeds[chunk], (3, 1, 2, 2), stream=number)

    def measure(chunk, directions):
        asked.append(len(chunk))
        weights = chunk.view(-1, 1, 1, 1, 1) + directions.amax((2, 3, 4), keepdim=True)
        return [directions * weights, weights]

    weighed, weights = sums_over_directions(draw, measure, rows, blocks=4, at_once=at_once)
    for row, sums in zip(rows, zip(weighed, weights, strict=True), strict=True):
        expected = [torch.zeros(1, 2, 2), torch.zeros(1, 1, 1)]
        for number in range(4):
            parts = measure(row[None], draw(row[None], number))
            for total, part in zip(expected, parts, strict=True):
                total += part[0].sum(0)
        assert all(torch.equal(*pair) for pair in zip(sums, expected, strict=True))
    assert max(asked) <= at_once
