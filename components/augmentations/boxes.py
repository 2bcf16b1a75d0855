"""Boxes: one is cut out of each image and stretched to a size."""

import torch
from torch import Tensor
from torch.nn import functional

from components.tensors import Images


def stretch_boxes(images: Images, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut each image's box out and resize it bilinearly, without aliasing where it shrinks.

    Args:
        images: float in [0, 1].
        boxes: top, left, height and width of each image's, whole numbers inside it.
        size: height and width of what comes out.
    """
    stretched = images.new_empty(*images.shape[:2], *size)
    for image, (top, left, height, width) in enumerate(boxes.long().tolist()):
        box = images[image : image + 1, :, top : top + height, left : left + width]
        stretched[image] = functional.interpolate(box, size, mode="bilinear", antialias=True)[0]
    return stretched.clamp_(0, 1)  # weights may add up to a rounding error more than one


def cut_boxes(images: Images, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut a box of the same size out of each image at its own place."""
    every = images.unfold(2, height, 1).unfold(3, width, 1)  # a view
    return every[torch.arange(len(images), device=images.device), :, top.long(), left.long()]
