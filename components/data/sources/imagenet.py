"""imagenet, tiny_imagenet: photographs named by WordNet, with the published validation as test."""

import re
from collections.abc import Iterator

from components.data.sources.folder import split_folders
from components.data.sources.listing import Listing
from components.data.sources.source import Record, Refused, Source
from components.data.sources.text import position_of, read_lines
from components.storage import open_folder


def imagenet(*, root: str, val_labels: str = "val_labels.txt") -> Source:
    """Take ``ROOT/train/nXXXXXXXX/*.JPEG``; the published validation images are for testing.

    These lie in ``ROOT/val/nXXXXXXXX``, or all in ``ROOT/val`` beside a list of their classes: a
    line per image with its name, with or without ``.JPEG``, and its class, as the class's folder or
    as the folder's place in alphabetical order; what follows them in the line does not matter.

    Args:
        root: path or ``s3://bucket/prefix``.
        val_labels: path of that list below the root, such as ``LOC_val_solution.csv``.

    Raises:
        ValueError: the folder is not laid out like this.
    """
    folder = open_folder(root)
    listing = Listing(folder, ("train", "val"))
    if not listing.folders("train"):
        raise ValueError(f"{root}/train must be a folder with one folder per class")
    if listing.folders("val"):
        return split_folders(listing, {"train": "train", "val": "test"})
    if not folder.exists(val_labels):
        raise ValueError(
            f"{root}/val must have one folder per class, or {val_labels} must list its labels"
        )
    return _with_list(Listing(folder, ("train", "val"), (val_labels,)), val_labels, "val", "")


def tiny_imagenet(*, root: str) -> Source:
    """Take Tiny ImageNet's 200 classes of 64x64 pixels, 500 images of each to train.

    The 10,000 published validation images are for testing; the images in ``test`` have no published
    labels and stay out.

    Args:
        root: holds ``train/nXXXXXXXX/images`` and ``val`` with ``val_annotations.txt``, or holds
            ``tiny-imagenet-200`` with them.

    Raises:
        ValueError: the folder is not laid out like this.
    """
    folder = open_folder(root)
    for place in (folder, folder.within("tiny-imagenet-200")):
        if place.exists("val/val_annotations.txt"):
            listing = Listing(place, ("train", "val"), ("val/val_annotations.txt",))
            return _with_list(listing, "val/val_annotations.txt", "val/images", "images")
    raise ValueError(f"{root}/val/val_annotations.txt must list the labels, and is missing")


def _with_list(listing: Listing, labels: str, tested: str, inner: str) -> Source:
    """Take training images from folders and test images from a list."""
    folders = split_folders(listing, {"train": "train"}, inner=inner)
    classes = folders.classes

    def records() -> Iterator[Record | Refused]:
        yield from folders.records()
        listed = _listed(listing, labels, tested, classes)
        yield from listing.join(listed, frozenset(classes), [tested])

    return listing.source(classes, records, grey=False)


def _listed(
    listing: Listing, labels: str, tested: str, classes: tuple[str, ...]
) -> Iterator[Record | Refused]:
    for number, line in enumerate(read_lines(listing.folder, labels), 1):
        words = re.split(r"[,\s]+", line.strip())
        if words == [""] or (number == 1 and words[0] == "ImageId"):
            continue
        if len(words) < 2:
            yield Refused(name=f"{labels}, line {number}", reason="must be NAME CLASS")
            continue
        name, label = words[:2]
        if (position := position_of(label, len(classes))) is not None:
            label = classes[position]
        path = f"{tested}/{name}"
        if path not in listing and f"{path}.JPEG" in listing:
            path = f"{path}.JPEG"
        yield Record(split="test", class_name=label, name=path)
