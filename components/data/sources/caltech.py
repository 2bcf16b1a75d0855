"""caltech101, caltech256: photographs of objects, in a folder per kind, without published split."""

from components.data.sources.folder import class_folders
from components.data.sources.listing import Listing
from components.data.sources.source import Source
from components.storage import open_folder

_BACKGROUND = "BACKGROUND_Google"
_CLUTTER = "257.clutter"


def caltech101(*, root: str, test_share: float = 0.1, background: bool = False) -> Source:
    """Take Caltech-101's 101 kinds of objects.

    The split is ours: per class, in order of the files' names, the first 90 % train and the next
    10 % test, each cut to a whole number; what is left over trains. With the background these are
    the 866 test images of Li et al. 2020 (feature pyramid decoder).

    Args:
        root: holds ``101_ObjectCategories``, or ``caltech101/101_ObjectCategories``.
        test_share: of each class.
        background: count the pictures of nothing in particular as one more class.

    Raises:
        ValueError: the folder is not laid out like this.
    """
    without = () if background else (_BACKGROUND,)
    return _caltech(root, "caltech101", "101_ObjectCategories", test_share, without)


def caltech256(*, root: str, test_share: float = 0.05, clutter: bool = True) -> Source:
    """Take Caltech-256's 256 kinds of objects, and one class of clutter.

    The split is ours, by the rule of `caltech101`, with 95 % and 5 %.

    Args:
        root: holds ``256_ObjectCategories``, or ``caltech256/256_ObjectCategories``.
        test_share: of each class.
        clutter: keep the class of pictures of nothing in particular.

    Raises:
        ValueError: the folder is not laid out like this.
    """
    without = () if clutter else (_CLUTTER,)
    return _caltech(root, "caltech256", "256_ObjectCategories", test_share, without)


def _caltech(
    root: str, name: str, folder: str, test_share: float, without: tuple[str, ...]
) -> Source:
    files = open_folder(root)
    for below in (folder, f"{name}/{folder}"):
        listing = Listing(files, (below,))
        if listing.folders(below):
            return class_folders(listing, below, grey=False, test_share=test_share, without=without)
    raise ValueError(f"{root} must hold {folder} with one folder of images per class")
