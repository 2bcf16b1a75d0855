"""digits: 1,797 real handwritten digits that come with scikit-learn."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.data.sources.arrays import as_pnm
from components.data.sources.source import Published, Record, Source

_NUM_TEST = 500


def digits() -> Source:
    """Take scikit-learn's 1,797 handwritten digits of 8x8 pixels: 1,297 to train, 500 to test.

    The split is ours, since none was published: per class, the test images are spread evenly over
    the order in which scikit-learn gives them, so no random generator has a say.
    """
    # Here, because importing scikit-learn takes about three seconds.
    from sklearn.datasets import load_digits

    bunch: Mapping[str, Any] = load_digits()
    labels = [int(label) for label in bunch["target"]]
    # Grey values 0..16 become 0..255, rounded half up.
    pixels = ((bunch["images"].astype(np.int64) * 255 + 8) // 16).astype(np.uint8)

    def records() -> Iterator[Record]:
        for position, split in enumerate(_spread_test(labels, _NUM_TEST)):
            yield Record(split=split, class_name=str(labels[position]), name=f"digit {position}")

    def read(name: str) -> bytes:
        return as_pnm(pixels[int(name.removeprefix("digit "))][..., None])

    def state() -> str:
        return hashlib.sha256(pixels.tobytes() + bytes(labels)).hexdigest()

    return Source(
        classes=tuple("0123456789"),
        grey=True,
        records=records,
        read=read,
        state=state,
        mixed=True,
    )


def _spread_test(labels: Sequence[int], num_test: int) -> Iterator[Published]:
    """Say for each position which split it goes to, in proportion to the classes."""
    counts, seen = Counter(labels), Counter[int]()
    wanted = _share_out(num_test, counts)
    for label in labels:
        before = seen[label] * wanted[label] // counts[label]
        seen[label] += 1
        after = seen[label] * wanted[label] // counts[label]
        yield "test" if after > before else "train"


def _share_out(total: int, counts: Mapping[int, int]) -> dict[int, int]:
    """Divide a total in proportion to counts by the method of largest remainders."""
    size = sum(counts.values())
    shares = {label: total * count // size for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (-(total * counts[label] % size), label))
    for label in by_remainder[: total - sum(shares.values())]:
        shares[label] += 1
    return shares
