from pathlib import Path

from kfp.dsl import Dataset

from components.data.component import prepare_data
from components.data.config import DataConfig
from components.data.index import read_index


def test_the_door_fills_its_artifact(tiny_root, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = DataConfig(source={"name": "folder", "root": str(tiny_root)}, validation_share=0.25)
    data = Dataset(uri=str(tmp_path / "artifact"))
    prepare_data.python_func(step="prepare-data", config=settings.to_json(), data=data)
    assert data.metadata == {
        "classes": 3,
        "train_images": 24,
        "validation_images": 8,
        "test_images": 8,
        "quarantined_images": 0,
        "fingerprint": read_index(Path(data.path)).fingerprint,
    }
