"""Plasma fractals: clouds of every size at once, by midpoint displacement."""

import torch

from components.augmentations.corruptions.severity import draw_uniform
from components.tensors import Images

_FIRST_DISPLACEMENT = 100.0


def plasma(
    count: int, height: int, width: int, decay: float, *, generator: torch.Generator
) -> Images:
    """Draw fractals by the diamond-square algorithm on a torus.

    Fournier, Fussell and Carpenter, 1982, Communications of the ACM 25.

    Args:
        count: of fractals.
        height: of each.
        width: of each.
        decay: by which displacements, before they are squared, fall from each level of detail to
            the next; smaller ones give rougher clouds.
        generator: of the device to draw on.

    Returns:
        Count x 1 x height x width, from 0 to 1 over the whole square that they are cut from.
    """
    grid = torch.zeros(count, 1, 1, 1, device=generator.device)
    displacement = _FIRST_DISPLACEMENT
    while grid.shape[-1] < max(height, width):
        grid = _refine(grid, displacement**2, generator)
        displacement /= decay
    grid = grid - grid.amin((2, 3), keepdim=True)
    grid = grid / grid.amax((2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return grid[..., :height, :width]


def _refine(grid: Images, displacement: float, generator: torch.Generator) -> Images:
    """Double a periodic grid: middles of squares from their corners, then middles of edges."""
    shape = tuple(grid.shape)
    noise = draw_uniform((3, *shape), -displacement, displacement, generator)
    squares = (grid + grid.roll(-1, 2) + grid.roll(-1, 3) + grid.roll((-1, -1), (2, 3))) / 4
    squares += noise[0]
    across = (grid + grid.roll(-1, 3) + squares + squares.roll(1, 2)) / 4 + noise[1]
    down = (grid + grid.roll(-1, 2) + squares + squares.roll(1, 3)) / 4 + noise[2]
    even, odd = torch.stack([grid, across], dim=-1), torch.stack([down, squares], dim=-1)
    rows = torch.stack([even.flatten(3), odd.flatten(3)], dim=3)
    return rows.flatten(2, 3)
