"""folder: images in one folder per class, with or without folders for the splits."""

from collections.abc import Iterator, Mapping

from components.data.sources.listing import Listing, is_image
from components.data.sources.source import Published, Record, Refused, Source, cut_test
from components.storage import open_folder

_TESTS = ("test", "validation", "val")


def folder(*, root: str, grey: bool = False, test_share: float = 0.1) -> Source:
    """Take ``ROOT/train/CLASS/IMAGE`` and ``ROOT/test/CLASS/IMAGE``, or just ``ROOT/CLASS/IMAGE``.

    A folder ``val`` or ``validation`` serves as test; beside a ``test`` it is more to train on,
    since our validation split is cut from the training images. Without splits, the images for the
    test are cut from each class in order of their names, so no random generator has a say. A folder
    without images is no class.

    Args:
        root: path or ``s3://bucket/prefix``.
        grey: give one channel instead of three.
        test_share: of each class, where no split was published.

    Raises:
        ValueError: the folder is not laid out like this.
    """
    files = open_folder(root)
    splits = Listing(files, ("train", *_TESTS))
    found = splits.folders()
    if "train" not in found:
        if found:
            raise ValueError(f"{root}/train must be a folder with one folder per class")
        return class_folders(Listing(files), "", grey=grey, test_share=test_share)
    test = next((name for name in _TESTS if name in found), None)
    if test is None:
        raise ValueError(f"{root}/test must be a folder with one folder per class, and is missing")
    roles: dict[str, Published] = {name: "train" for name in found if name != test}
    return split_folders(splits, {**roles, test: "test"}, grey=grey)


def split_folders(
    listing: Listing, roles: Mapping[str, Published], *, grey: bool = False, inner: str = ""
) -> Source:
    """Take ``SPLIT/CLASS/IMAGE``; the classes are those of the training images.

    Args:
        listing: of the folders.
        roles: what each folder's images are for.
        grey: give one channel instead of three.
        inner: folder in each class's folder that holds the images, beside lists of boxes.
    """
    trained = [part for part, role in roles.items() if role == "train"]
    classes = tuple(sorted({name for part in trained for name in listing.folders(part)}))

    def records() -> Iterator[Record | Refused]:
        for part, role in roles.items():
            yield from _classified(listing, part, classes, role, inner)

    return listing.source(classes, records, grey=grey)


def class_folders(
    listing: Listing,
    below: str,
    *,
    grey: bool,
    test_share: float,
    without: tuple[str, ...] = (),
) -> Source:
    """Take ``BELOW/CLASS/IMAGE`` and cut the test split from each class.

    Args:
        listing: of the folders.
        below: folder that holds the classes' folders.
        grey: give one channel instead of three.
        test_share: of each class.
        without: folders that are no class of this data set.
    """
    cut_test(1, test_share)  # refuse a wrong share before the work
    classes = tuple(name for name in listing.folders(below) if name not in without)
    if not classes:
        raise ValueError(
            f"{listing.folder.address}/{below}".rstrip("/")
            + " must be a folder with one folder of images per class"
        )
    start = f"{below}/" if below else ""

    def records() -> Iterator[Record | Refused]:
        for name in classes:
            entries = list(listing.images(start + name))
            images = [entry for entry in entries if isinstance(entry, str)]
            tested = cut_test(len(images), test_share)
            for position, image in enumerate(images):
                split: Published = "test" if position in tested else "train"
                yield Record(split=split, class_name=name, name=image)
            yield from (entry for entry in entries if isinstance(entry, Refused))
        for name in listing.names(below):
            if "/" not in name[len(start) :]:
                yield Refused(name=name, reason="lies in no class's folder")

    return listing.source(classes, records, grey=grey)


def _classified(
    listing: Listing, part: str, classes: tuple[str, ...], split: Published, inner: str
) -> Iterator[Record | Refused]:
    for name in listing.names(part):
        class_name, slash, _ = name[len(part) + 1 :].partition("/")
        if not slash:
            yield Refused(name=name, reason="lies in no class's folder")
        elif class_name not in classes:
            yield Refused(name=name, reason=f"is of the class {class_name}, which train lacks")
        elif not (inner and name.endswith("_boxes.txt")):
            folder = "/".join(filter(None, (part, class_name, inner)))
            entry = is_image(name, folder)
            if isinstance(entry, str):
                yield Record(split=split, class_name=class_name, name=name)
            else:
                yield entry
