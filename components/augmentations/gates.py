"""Gates: an operation on images becomes an augmentation that each image passes or not."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, get_type_hints

import torch

from components.tensors import Images, Targets


def sometimes(
    operation: Callable[..., Images], default: float = 0.3
) -> Callable[..., tuple[Images, Targets]]:
    """Give an operation the option ``probability``: the chance of each image to go through it.

    Args:
        operation: ``(images, *, ..., generator) -> images``.
        default: of the option.
    """

    @wraps(operation)
    def augment(
        images: Images,
        targets: Targets,
        *,
        probability: float = default,
        generator: torch.Generator,
        **options: Any,
    ) -> tuple[torch.Tensor, Targets]:
        chosen = draw_gates(torch.tensor([probability]), len(images), generator)[0]
        return apply_where(partial(operation, **options), images, chosen, generator), targets

    alone, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    options = [
        parameter
        for parameter in inspect.signature(operation).parameters.values()
        if parameter.kind is named and parameter.name != "generator"
    ]
    parameters = [
        inspect.Parameter("images", alone),
        inspect.Parameter("targets", alone),
        *options,
        inspect.Parameter("probability", named, default=default),
        inspect.Parameter("generator", named),
    ]
    augment.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    augment.__annotations__ = get_type_hints(operation) | {"probability": float}
    return augment


def draw_gates(probabilities: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw for each probability and each image whether it goes through.

    Raises:
        ValueError: a probability is outside [0, 1].
    """
    for probability in probabilities.tolist():
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability:g}")
    device = generator.device
    drawn = torch.rand(len(probabilities), count, generator=generator, device=device)
    return drawn < probabilities.to(device).view(-1, 1)


def apply_where(
    operation: Callable[..., Images],
    images: Images,
    chosen: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Apply an operation to the chosen images alone; what was handed over stays as it was.

    Raises:
        ValueError: the operation changes the size of some images, and others keep theirs.
    """
    rows = chosen.nonzero().flatten()
    if len(rows) == 0:
        return images
    if len(rows) == len(images):
        return operation(images, generator=generator)
    changed = operation(images[rows], generator=generator)
    if changed.shape[1:] != images.shape[1:]:
        raise ValueError(
            "an operation that changes the images' size needs probability 1, "
            "for images of a batch have one size"
        )
    return images.index_copy(0, rows, changed)
