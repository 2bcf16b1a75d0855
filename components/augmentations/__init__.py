"""Table AUGMENTATIONS: images, targets -> images, targets."""

from collections.abc import Callable

from components.augmentations.crop_and_flip import crop_and_flip
from components.augmentations.cutmix import cutmix
from components.augmentations.gates import sometimes
from components.augmentations.mixup import mixup
from components.augmentations.operations import OPERATIONS
from components.augmentations.random_chain import random_chain
from components.augmentations.random_resize_pad import random_resize_pad
from components.augmentations.random_resized_crop import random_resized_crop
from components.tensors import Images, Targets

AUGMENTATIONS: dict[str, Callable[..., tuple[Images, Targets]]] = {
    "crop_and_flip": crop_and_flip,
    "cutmix": cutmix,
    "mixup": mixup,
    "random_chain": random_chain,
    "random_resize_pad": random_resize_pad,
    "random_resized_crop": random_resized_crop,
    **{name: sometimes(operation) for name, operation in OPERATIONS.items()},
    "vertical_flip": sometimes(OPERATIONS["vertical_flip"], 0.1),
}
