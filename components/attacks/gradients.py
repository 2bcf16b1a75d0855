"""The gradient of a loss at the pixels, from a model that stays exactly as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from components.tensors import Classifier, Images, Labels, Logits, PerSample


@contextmanager
def untouched(model: Classifier) -> Iterator[None]:
    """Put a module into evaluation mode with frozen parameters, and put everything back.

    Each module's own flag is restored, also after an exception. Parameters need no gradients of
    their own while pixels are attacked, which saves a third of the backward pass.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


def input_gradient(
    model: Classifier,
    images: Images,
    loss: Callable[[Logits], PerSample],
    *,
    draws: int = 1,
    raw: bool = False,
) -> tuple[PerSample, Images, Logits]:
    """Give losses, their gradient at each image, and the logits, from one forward and backward.

    The losses are summed, not averaged: a mean divides by the batch size and underflows sooner.

    Args:
        model: any callable from pixels to logits.
        images: where to look.
        loss: of every image, from its logits.
        draws: forward passes whose losses, gradients and logits are averaged, for models that draw
            at random (expectation over transformation: Athalye et al., 2018,
            https://arxiv.org/abs/1707.07397).
        raw: leave gradients that are no numbers as they are; attacks take them for zero.

    Raises:
        ValueError: no gradient reaches the pixels.
    """
    losses, gradient, logits = _one_gradient(model, images, loss)
    for _ in range(draws - 1):
        more = _one_gradient(model, images, loss)
        losses, gradient, logits = losses + more[0], gradient + more[1], logits + more[2]
    if not raw:
        gradient = gradient.nan_to_num(nan=0.0)  # not in place: it may be an expanded view
    if draws == 1:
        return losses, gradient, logits
    return losses / draws, gradient / draws, logits / draws


def _one_gradient(
    model: Classifier, images: Images, loss: Callable[[Logits], PerSample]
) -> tuple[PerSample, Images, Logits]:
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(images)
        losses = loss(logits)
        gradient = None
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), images, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the model gives no gradient at its pixels; attack it through its honest view"
        )
    return losses.detach(), gradient, logits.detach()


def check_images(images: Images, labels: Labels) -> None:
    """Refuse what no attack can work on.

    Raises:
        ValueError: wrong shape or dtype, pixels outside [0, 1] or not finite, labels that are not
            class indices or not one per image.
    """
    if images.ndim != 4 or images.dtype != torch.float32:
        raise ValueError(
            "images must be float32 of shape (batch, channels, height, width), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64, one per image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)} for {len(images)} images"
        )
    if bool((labels < 0).any()):
        raise ValueError(f"labels must be class indices from 0, got {int(labels.min())}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images must be finite and in [0, 1], got [{images.min():g}, {images.max():g}]"
        )
