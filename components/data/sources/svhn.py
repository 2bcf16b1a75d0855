"""svhn: house numbers from street photographs, cut to 32x32 pixels, in MATLAB files."""

import io
from collections.abc import Iterator

import numpy as np

from components.data.sources.arrays import Part, array_source
from components.data.sources.listing import Listing
from components.data.sources.source import Published, Source
from components.storage import Folder, open_folder


def svhn(*, root: str, extra: bool = False) -> Source:
    """Take SVHN's cropped digits: 73,257 images to train and 26,032 to test.

    A file is in memory as a whole while it is laid out: 0.2 GB for the training images, 1.6 GB for
    the extra ones.

    Args:
        root: holds ``train_32x32.mat`` and ``test_32x32.mat``.
        extra: also train on the 531,131 easier images of ``extra_32x32.mat``.

    Raises:
        ValueError: a file is missing or is of another form.
    """
    folder = open_folder(root)
    files: dict[str, Published] = {"train_32x32.mat": "train"}
    if extra:
        files["extra_32x32.mat"] = "train"
    files["test_32x32.mat"] = "test"
    for name in files:
        if not folder.exists(name):
            raise ValueError(f"{root}/{name} must be there, and is missing")

    def load() -> Iterator[Part]:
        for name, split in files.items():
            yield _read(folder, name, split)

    return array_source(tuple("0123456789"), load, Listing(folder).state)


def _read(folder: Folder, name: str, split: Published) -> Part:
    # Here, because importing scipy's file formats takes half a second that nobody else needs.
    from scipy.io import loadmat

    try:
        content = loadmat(io.BytesIO(folder.read(name)), variable_names=("X", "y"))
    except Exception as error:  # whatever foreign bytes lead scipy to
        raise ValueError(f"{folder.address}/{name} is no MATLAB file: {error}") from error
    images, labels = content.get("X"), content.get("y")
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[:3] != (32, 32, 3)
        or not isinstance(labels, np.ndarray)
        or labels.dtype.kind not in "iuf"
        or labels.size != images.shape[3]
    ):
        raise ValueError(
            f"{folder.address}/{name} must hold X of 32 x 32 x 3 x N bytes and y of N labels"
        )
    digits = [0 if label == 10 else int(label) for label in labels.ravel()]  # ten means zero
    return Part(split, images.transpose(3, 0, 1, 2), digits)
