"""Costs of LeNet-5 and VGG16 by the published formulas, from the open units of each gate."""

from collections.abc import Sequence
from itertools import pairwise

_VGG_SIDES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)  # of the feature maps
_VGG_POOLED = (2, 4, 7, 10, 13)


def published_costs(
    backbone: str, widths: Sequence[int], *, num_classes: int = 10, dense_counts: int = 1
) -> dict[str, int]:
    """Give ``flops`` and ``memory`` as the published tables count them.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355, after Lee et al., 2018,
    https://arxiv.org/abs/1805.10896. They take the gates for independent, though those of a
    convolution and of the flattened features behind it close the same units, so that what
    `count_flops` and `count_memory` find for the narrower network is at most this. A multiplication
    and an addition are two operations; memory is kernels and the unfolded input of each
    convolution. Differs from the published code: dense layers of VGG16 are counted once.

    Args:
        backbone: ``lenet5`` for grey images of 28 x 28 pixels, ``vgg16`` for coloured ones of 32 x
            32.
        widths: open units of each gate, 4 or 15.
        num_classes: of the last layer.
        dense_counts: how often the memory of the dense layers of VGG16 counts; 13 in the code.

    Raises:
        ValueError: there is no formula for this backbone, or it has not so many gates.
    """
    if backbone == "lenet5" and len(widths) == 4:
        return {
            "flops": _lenet_flops(widths, num_classes),
            "memory": _lenet_memory(widths, num_classes),
        }
    if backbone == "vgg16" and len(widths) == 15:
        memory = _vgg_memory(widths, num_classes, dense_counts)
        return {"flops": _vgg_flops(widths, num_classes), "memory": memory}
    raise ValueError(
        f"there are formulas for lenet5 with 4 and vgg16 with 15 gates, got {backbone} with "
        f"{len(widths)}"
    )


def _lenet_flops(widths: Sequence[int], num_classes: int) -> int:
    conv1, conv2, flat, dense = widths
    first = 576 * conv1 * 51 + 576 * conv1
    second = 64 * conv2 * (50 * conv1 + 1) + 64 * conv2
    return first + second + (2 * flat + 1) * dense + 2 * num_classes * dense


def _lenet_memory(widths: Sequence[int], num_classes: int) -> int:
    conv1, conv2, flat, dense = widths
    convolutions = 25 * (576 + conv1) + 25 * conv1 * (64 + conv2)
    return convolutions + flat * dense + dense + num_classes * dense + num_classes


def _vgg_flops(widths: Sequence[int], num_classes: int) -> int:
    total = 0
    for number, (before, width) in enumerate(pairwise((3, *widths[:13])), 1):
        places = _VGG_SIDES[number - 1] ** 2
        total += places * width * (18 * before + 1)
        total += places * width * (number in _VGG_POOLED)
    flat, dense = widths[13:]
    return total + (2 * flat + 1) * dense + (2 * dense + 1) * num_classes


def _vgg_memory(widths: Sequence[int], num_classes: int, dense_counts: int) -> int:
    total = 0
    for side, (before, width) in zip(_VGG_SIDES, pairwise((3, *widths[:13])), strict=True):
        total += 9 * before * (side**2 + width) + 2 * width
    flat, dense = widths[13:]
    once = flat * dense + dense + 2 * flat + dense * num_classes + num_classes
    return total + dense_counts * once
