"""Table SOURCES: where images come from, listed cheaply and read one at a time."""

from collections.abc import Callable

from components.data.sources.caltech import caltech101, caltech256
from components.data.sources.challenge_json import challenge_json
from components.data.sources.cifar import cifar10, cifar100
from components.data.sources.digits import digits
from components.data.sources.folder import folder
from components.data.sources.imagenet import imagenet, tiny_imagenet
from components.data.sources.label_file import label_file
from components.data.sources.mnist import fashion_mnist, mnist
from components.data.sources.source import Record, Refused, Source
from components.data.sources.svhn import svhn
from components.data.sources.table import table

__all__ = ["SOURCES", "Record", "Refused", "Source"]

SOURCES: dict[str, Callable[..., Source]] = {
    "caltech101": caltech101,
    "caltech256": caltech256,
    "challenge_json": challenge_json,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "folder": folder,
    "imagenet": imagenet,
    "label_file": label_file,
    "mnist": mnist,
    "svhn": svhn,
    "table": table,
    "tiny_imagenet": tiny_imagenet,
}
