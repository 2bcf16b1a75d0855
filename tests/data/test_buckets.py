"""From images in a bucket to shards in a bucket to batches, with nothing but an index on disk."""

import numpy as np
import torch

from components.data.config import DataConfig
from components.data.index import read_index
from components.data.prepare import prepare
from components.data.stream import Stream
from components.storage import open_folder


def test_prepared_from_bucket_to_bucket_and_streamed(tiny_root, bucket, tmp_path):
    images = open_folder(f"{bucket}/images")
    for path in tiny_root.rglob("*.png"):
        images.upload(path, path.relative_to(tiny_root).as_posix())
    changes = {"validation_share": 0.25, "image_size": 8}
    there = DataConfig(
        source={"name": "folder", "root": images.address}, target=f"{bucket}/shards", **changes
    )
    here = DataConfig(source={"name": "folder", "root": str(tiny_root)}, **changes)
    prepare(there, tmp_path / "there")
    prepare(here, tmp_path / "here")
    index = read_index(tmp_path / "there")
    assert index.location.startswith(f"{bucket}/shards/")
    assert index.fingerprint == read_index(tmp_path / "here").fingerprint
    assert not list((tmp_path / "there").glob("*.parquet"))
    for split in ("train", "validation", "test"):
        streams = [Stream(tmp_path / name, split, batch_size=7) for name in ("there", "here")]
        for one, other in zip(*(stream.epoch(0) for stream in streams), strict=True):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
            assert np.isfinite(one.images.numpy()).all() and one.images.shape[1:] == (3, 8, 8)
