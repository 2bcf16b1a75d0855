"""read_loose: images that lie in a folder per class, as they are, without preparing them."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from components.data.batches import Split
from components.data.prepare import decode
from components.data.shards import image_id
from components.data.sources import Record, list_classes, list_images, spread_classes


def read_loose(
    folder: Path, *, grey: bool = False, image_size: int = 0, num_images: int = 0
) -> tuple[Split, tuple[str, ...]]:
    """Decode ``FOLDER/CLASS/*.png|jpg``; the classes are mixed, so the first are a fair sample.

    Args:
        folder: its folders in alphabetical order are the classes 0, 1, ...
        grey: give one channel instead of three.
        image_size: side to which images are resized; 0 leaves them as they are.
        num_images: how many to read; 0 reads all.

    Returns:
        The images, with the ids that shards would give them, and the names of the classes.

    Raises:
        ValueError: the folder is not laid out like this, an image is broken, or sizes differ.
    """
    classes = tuple(path.name for path in list_classes(folder))
    files = {name: list_images(folder / name) for name in classes}
    chosen = list(spread_classes(files))[: num_images or None]
    if not chosen:
        raise ValueError(f"{folder} must hold images in its folders, and holds none")
    pixels: list[NDArray[np.uint8]] = []
    ids = []
    for name, path in chosen:
        record = Record(split="test", class_name=name, origin=str(path), read=path.read_bytes)
        image = decode(record, grey=grey, image_size=image_size)
        if image.shape != (pixels or [image])[0].shape:
            raise ValueError(
                f"{path} has the shape {image.shape}, others have {pixels[0].shape}; "
                "have them resized to one size"
            )
        pixels.append(image)
        ids.append(image_id(image))
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([classes.index(name) for name, _ in chosen])
    return Split(images, labels, tuple(ids)), classes
