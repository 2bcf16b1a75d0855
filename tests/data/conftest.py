"""Small data sets in real files."""

import numpy as np
import pytest
from PIL import Image

from components.data.config import DataConfig
from components.data.prepare import prepare


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare(DataConfig(source={"name": "digits"}, image_size=28), folder)
    return folder


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
