"""Small data sets in real files."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tiny_root(tmp_path):
    """A folder per class with colour images of 6 x 5 pixels: 9, 20, 3 to train, 2, 5, 1 to test."""
    random = np.random.default_rng(0)
    for name, sizes in {"ant": (9, 2), "bee": (20, 5), "cat": (3, 1)}.items():
        for split, size in zip(("train", "test"), sizes, strict=True):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for number in range(size):
                pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return tmp_path / "source"
