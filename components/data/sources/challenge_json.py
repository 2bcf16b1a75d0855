"""challenge_json: one flat folder of images, and two JSON files that list each class's names."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from components.data.sources.listing import Listing
from components.data.sources.source import Published, Record, Refused, Source
from components.data.sources.text import named_classes, position_of
from components.storage import Folder, open_folder


def challenge_json(
    *,
    root: str,
    images: str = "train_p2",
    train: str = "train.json",
    test: str = "val.json",
    num_classes: int = 100,
    class_names: Sequence[str] = (),
    grey: bool = False,
) -> Source:
    """Take ``{"0": ["118265.JPEG", ...], ...}`` of one flat folder, labels counting from 0.

    The defaults are the layout of the second phase of the ImageNet challenge on unrestricted
    robustness (Li et al. 2021, gradient concealment): 117,390 images to train and 10,000 in its
    published validation, which serve as test. There a file's number tells its class, so the lists'
    order must not reach a model; shards mix the classes.

    Args:
        root: path or ``s3://bucket/prefix``; everything else is a path below it.
        images: folder of all images.
        train: lists those to train on.
        test: lists those to test on.
        num_classes: how many classes there are.
        class_names: in the order of the labels; without them classes are called by their numbers.
        grey: give one channel instead of three.

    Raises:
        ValueError: a list is missing or is no such JSON.
    """
    folder = open_folder(root)
    classes = named_classes(num_classes, class_names)
    for name in (train, test):
        if not folder.exists(name):
            raise ValueError(f"{root}/{name} must list the images of each class, and is missing")
    listing = Listing(folder, (images,), (train, test))

    def labels() -> Iterator[Record | Refused]:
        yield from _read(folder, train, images, "train", classes)
        yield from _read(folder, test, images, "test", classes)

    def records() -> Iterator[Record | Refused]:
        return listing.join(labels(), frozenset(classes), (images,))

    return listing.source(classes, records, grey=grey)


def _read(
    folder: Folder, file: str, images: str, split: Published, classes: tuple[str, ...]
) -> Iterator[Record | Refused]:
    try:
        # Pairs instead of a dictionary, which would drop a class that is listed twice.
        pairs = json.loads(folder.read(file), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder.address}/{file} is no JSON: {error}") from error
    if not isinstance(pairs, tuple):
        raise ValueError(f'{folder.address}/{file} must be {{"LABEL": ["NAME", ...], ...}}')
    for label, names in pairs:
        where = f"{file}, class {label!r}"
        position = position_of(label, len(classes))
        if position is None:
            last = len(classes) - 1
            yield Refused(name=where, reason=f"is none of 0..{last}")
        elif not isinstance(names, list):
            yield Refused(name=where, reason="must have a list of names")
        for name in names if isinstance(names, list) else ():
            yield _entry(
                name, where, images, split, None if position is None else classes[position]
            )


def _entry(
    name: Any, where: str, images: str, split: Published, class_name: str | None
) -> Record | Refused:
    if not isinstance(name, str):
        return Refused(name=where, reason=f"lists {name!r}, which is no name")
    path = f"{images}/{name}"
    if class_name is None:
        return Refused(name=path, reason=f"is listed in {where}, which does not exist")
    return Record(split=split, class_name=class_name, name=path)
