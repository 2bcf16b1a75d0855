"""Table AUGMENTATIONS: images, targets -> images, targets."""

from collections.abc import Callable

from components.augmentations.crop_and_flip import crop_and_flip
from components.augmentations.mixup import mixup
from components.tensors import Images, Targets

AUGMENTATIONS: dict[str, Callable[..., tuple[Images, Targets]]] = {
    "crop_and_flip": crop_and_flip,
    "mixup": mixup,
}
