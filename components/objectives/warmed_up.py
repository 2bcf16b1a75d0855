"""Warm-up: one objective for the first epochs, another one from then on."""

from collections.abc import Callable

from torch import Tensor, nn

from components.tensors import Images, Targets


def warmed_up(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    epochs: int,
    first: Callable[..., dict[str, Tensor]],
    then: Callable[..., dict[str, Tensor]],
    epoch: int = 0,
    seed: int = 0,
    rows: Tensor | None = None,
) -> dict[str, Tensor]:
    """Give the losses of one of two objectives.

    What PART needs, for the maps of a network that has learnt nothing mean nothing, and weight
    perturbation beside TRADES.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities.
        epochs: that the first objective lasts.
        first: an objective.
        then: the one after it.
        epoch: of the training, counted from 0.
        seed: of the objectives.
        rows: as for `Objective`.

    Returns:
        The losses of the one whose turn it is.

    Raises:
        ValueError: epochs is negative.
    """
    if epochs < 0:
        raise ValueError(f"epochs must be at least 0, got {epochs}")
    chosen = first if epoch < epochs else then
    return chosen(model, images, targets, epoch=epoch, seed=seed, rows=rows)
