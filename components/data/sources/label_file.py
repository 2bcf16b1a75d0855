"""label_file: flat folders of images, each with a list of names and numbers."""

from collections.abc import Iterator, Sequence

from components.data.sources.listing import Listing
from components.data.sources.source import Published, Record, Refused, Source
from components.data.sources.text import named_classes, position_of, read_lines
from components.storage import open_folder


def label_file(
    *,
    root: str,
    train: str = "train_phase1/images",
    train_labels: str = "train_phase1/label.txt",
    test: str = "track1_test1",
    test_labels: str = "test_label.txt",
    num_classes: int = 20,
    class_names: Sequence[str] = (),
    grey: bool = False,
) -> Source:
    """Take flat folders whose lists say ``NAME LABEL`` per line, labels counting from 0.

    The defaults are the layout of the first phase of the ImageNet challenge on unrestricted
    robustness (Li et al. 2021, gradient concealment): 22,987 images to train.

    Args:
        root: path or ``s3://bucket/prefix``; everything else is a path below it.
        train: folder of the training images.
        train_labels: their list.
        test: folder of the test images.
        test_labels: their list.
        num_classes: how many classes there are.
        class_names: in the order of the labels; without them classes are called by their numbers.
        grey: give one channel instead of three.

    Raises:
        ValueError: a list is missing.
    """
    folder = open_folder(root)
    classes = named_classes(num_classes, class_names)
    for name in (train_labels, test_labels):
        if not folder.exists(name):
            raise ValueError(f"{root}/{name} must list the images and their labels, and is missing")
    listing = Listing(folder, (train, test), (train_labels, test_labels))

    def labels() -> Iterator[Record | Refused]:
        yield from _read(listing, train_labels, train, "train", classes)
        yield from _read(listing, test_labels, test, "test", classes)

    def records() -> Iterator[Record | Refused]:
        return listing.join(labels(), frozenset(classes), (train, test))

    return listing.source(classes, records, grey=grey)


def _read(
    listing: Listing, labels: str, images: str, split: Published, classes: tuple[str, ...]
) -> Iterator[Record | Refused]:
    for number, line in enumerate(read_lines(listing.folder, labels), 1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) < 2:
            yield Refused(name=f"{labels}, line {number}", reason="must be NAME LABEL")
            continue
        name, label = words[0].strip(), words[1]
        if (position := position_of(label, len(classes))) is None:
            last = len(classes) - 1
            reason = f"has the label {label!r}, which is none of 0..{last}"
            yield Refused(name=f"{images}/{name}", reason=reason)
        else:
            yield Record(split=split, class_name=classes[position], name=f"{images}/{name}")
