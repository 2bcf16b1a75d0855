"""Images in a folder per class are read as they are, mixed, and named by their content."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.loose import read_loose


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(0)
    for name, count in {"bee": 2, "ant": 4}.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_pixels_labels_and_hashes(root):
    split, classes = read_loose(root)
    assert classes == ("ant", "bee") and split.images.shape == (6, 3, 5, 6)
    assert split.labels.tolist() == [0, 1, 0, 0, 1, 0]
    pixels = np.asarray(Image.open(root / "bee" / "0.png"))
    assert torch.equal(split.images[1], torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    assert split.ids[1] == hashlib.sha256(b"5x6x3:" + pixels.tobytes()).hexdigest()


def test_fewer_grey_and_resized(root):
    split, _ = read_loose(root, grey=True, image_size=4, num_images=3)
    assert split.images.shape == (3, 1, 4, 4) and len(split.ids) == 3


def test_different_sizes_and_nothing_at_all(root, tmp_path):
    Image.new("RGB", (9, 9)).save(root / "bee" / "9.png")
    with pytest.raises(ValueError, match="have them resized to one size"):
        read_loose(root)
    (tmp_path / "empty" / "ant").mkdir(parents=True)
    with pytest.raises(ValueError, match="must hold images in its folders"):
        read_loose(tmp_path / "empty")
