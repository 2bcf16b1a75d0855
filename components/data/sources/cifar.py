"""cifar10, cifar100: colour images of 32x32 pixels, in pickles read safely or in binary files."""

import hashlib
import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.data.sources.arrays import Part, array_source
from components.data.sources.listing import Listing, find
from components.data.sources.source import Published, Source
from components.storage import Folder, open_folder

_IMAGE = 3 * 32 * 32
_RECONSTRUCT = np.zeros(0).__reduce__()[0]  # what a pickled array names first
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Kind(NamedTuple):
    """What distinguishes the two data sets.

    Attributes:
        folder: of the pickles; that of the binary files has ``-bin`` or ``-binary``.
        binary: that folder.
        train: pickles of training images.
        test: pickle of test images.
        meta: pickle with the names of the classes.
        labels: what the labels are called in a pickle.
        names: what the names of the classes are called.
        names_file: lists the names beside the binary files.
        label_bytes: before an image in a binary file; the last one counts.
        md5: of the published pickles.
    """

    folder: str
    binary: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes
    names_file: str
    label_bytes: int
    md5: Mapping[str, str]


_CIFAR10 = _Kind(
    folder="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels=b"labels",
    names=b"label_names",
    names_file="batches.meta.txt",
    label_bytes=1,
    md5={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
_CIFAR100 = _Kind(
    folder="cifar-100-python",
    binary="cifar-100-binary",
    train=("train",),
    test="test",
    meta="meta",
    labels=b"fine_labels",
    names=b"fine_label_names",
    names_file="fine_label_names.txt",
    label_bytes=2,
    md5={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)


def cifar10(*, root: str, check_md5: bool = True) -> Source:
    """Take CIFAR-10: 50,000 images to train and 10,000 to test, of ten kinds.

    Args:
        root: holds ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, or is one of them.
        check_md5: refuse pickles other than the published ones.

    Raises:
        ValueError: a file is missing, is not the published one, or is of another form.
    """
    return _cifar(root, _CIFAR10, check_md5)


def cifar100(*, root: str, check_md5: bool = True) -> Source:
    """Take CIFAR-100 with its fine labels: 50,000 images to train and 10,000 to test.

    Args:
        root: holds ``cifar-100-python`` or ``cifar-100-binary``, or is one of them.
        check_md5: refuse pickles other than the published ones.

    Raises:
        ValueError: a file is missing, is not the published one, or is of another form.
    """
    return _cifar(root, _CIFAR100, check_md5)


def _cifar(root: str, kind: _Kind, check_md5: bool) -> Source:
    files = open_folder(root)
    try:
        folder = find(files, (kind.binary, ""), kind.names_file)
    except ValueError:
        folder = find(files, (kind.folder, ""), kind.meta)
    else:
        return _from_binary(folder, kind)

    def pickled(name: str) -> dict[bytes, Any]:
        return _unpickle(folder, name, kind.md5[name] if check_md5 else "")

    def load() -> Iterator[Part]:
        for name in (*kind.train, kind.test):
            batch = pickled(name)
            split: Published = "test" if name == kind.test else "train"
            images, labels = batch.get(b"data"), batch.get(kind.labels)
            if (
                not isinstance(images, np.ndarray)
                or images.dtype != np.uint8
                or images.shape[1:] != (_IMAGE,)
                or not isinstance(labels, list)
                or not all(type(label) is int for label in labels)
                or len(labels) != len(images)
            ):
                raise ValueError(
                    f"{folder.address}/{name} must hold rows of {_IMAGE} bytes and as many labels"
                )
            yield Part(split, _channels_last(images), labels)

    names = pickled(kind.meta).get(kind.names)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise ValueError(f"{folder.address}/{kind.meta} must hold the names of the classes")
    classes = tuple(name.decode(errors="replace") for name in names)
    return array_source(classes, load, Listing(folder).state)


def _from_binary(folder: Folder, kind: _Kind) -> Source:
    text = folder.read(kind.names_file).decode(errors="replace")
    classes = tuple(line.strip() for line in text.splitlines() if line.strip())

    def load() -> Iterator[Part]:
        for name in (*kind.train, kind.test):
            content = np.frombuffer(folder.read(f"{name}.bin"), np.uint8)
            row = kind.label_bytes + _IMAGE
            if len(content) % row:
                raise ValueError(
                    f"{folder.address}/{name}.bin must hold records of {row} bytes, "
                    f"has {len(content)} bytes"
                )
            rows = content.reshape(-1, row)
            split: Published = "test" if name == kind.test else "train"
            labels = rows[:, kind.label_bytes - 1].tolist()
            yield Part(split, _channels_last(rows[:, kind.label_bytes :]), labels)

    return array_source(classes, load, Listing(folder).state)


def _channels_last(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _Restricted(pickle.Unpickler):
    """Builds dictionaries, lists, bytes and numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def _unpickle(folder: Folder, name: str, md5: str) -> dict[bytes, Any]:
    content = folder.read(name)
    where = f"{folder.address}/{name}"
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 and found != md5:
        raise ValueError(
            f"{where} has the MD5 {found}, the published file {md5}; "
            "fetch it again, or set check_md5 to false for data of your own in this form"
        )
    try:
        batch = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # whatever foreign bytes lead the unpickler to
        raise ValueError(f"{where} is no pickle of images: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{where} must hold a dictionary, holds a {type(batch).__name__}")
    return batch
