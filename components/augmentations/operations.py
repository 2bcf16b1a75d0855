"""Table OPERATIONS: images -> images, in the order of the published training pipeline."""

from collections.abc import Callable

from components.augmentations.blurs import blur, gaussian_blur
from components.augmentations.corruptions import CORRUPTIONS
from components.augmentations.mosaic import mosaic
from components.augmentations.noise import color_point_noise, gaussian_noise, pepper_salt_noise
from components.augmentations.placement import (
    horizontal_flip,
    random_cut,
    random_padding,
    rotate,
    vertical_flip,
)
from components.augmentations.rain import rain
from components.augmentations.shuffles import block_shuffle, extend, local_shuffle, rgb_shuffle
from components.tensors import Images

OPERATIONS: dict[str, Callable[..., Images]] = {
    "pepper_salt_noise": pepper_salt_noise,
    "color_point_noise": color_point_noise,
    "gaussian_noise": gaussian_noise,
    "mosaic": mosaic,
    "rgb_shuffle": rgb_shuffle,
    "rotate": rotate,
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
    "random_cut": random_cut,
    "gaussian_blur": gaussian_blur,
    "blur": blur,
    "rain": rain,
    "extend": extend,
    "block_shuffle": block_shuffle,
    "local_shuffle": local_shuffle,
    "random_padding": random_padding,
    **CORRUPTIONS,
}
"""Called with ``generator=``, which draws for each image; the corruptions also take
``severity=``: 1 to 5, or 0 for one of these per image."""
