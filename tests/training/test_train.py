"""A stage learns, repeats bit for bit, keeps its best epoch, and starts from a checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

from components.data.config import DataConfig
from components.data.index import read_index, write_index
from components.data.prepare import prepare
from components.models.checkpoint import load_checkpoint, read_provenance
from components.storage import open_folder
from components.training.config import TrainingConfig
from components.training.train import TrainingCollapsed, streams, train

SETTINGS = TrainingConfig(
    backbone={"name": "lenet5"}, objective={"name": "cross_entropy"}, epochs=1
)
RESIZE = ({"name": "random_resize_pad"},)


class Recorder:
    """Stands for the tracking run and keeps what it is told."""

    name = "train-stage-one"

    def __init__(self):
        self.curves = []

    def metrics(self, values, step=None):
        self.curves.append((step, dict(values)))

    def progress(self, total, unit):
        from components.progress import Progress

        return Progress(self.name, total, unit)


@pytest.fixture(scope="module")
def trained(digits_shards, tmp_path_factory):
    target = tmp_path_factory.mktemp("trained")
    kept = train(SETTINGS, data=digits_shards, target=target)
    return target, kept


def test_one_epoch_learns_most_digits(trained):
    assert trained[1]["validation_clean_accuracy"] > 0.7


def test_same_settings_give_the_same_weights(trained, digits_shards, tmp_path):
    torch.rand(3)  # the global generator's state is no input
    train(SETTINGS, data=digits_shards, target=tmp_path)
    first, second = load_checkpoint(trained[0]), load_checkpoint(tmp_path)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])


def test_another_seed_gives_other_weights(trained, digits_shards, tmp_path):
    train(replace(SETTINGS, seed=1), data=digits_shards, target=tmp_path)
    first, second = load_checkpoint(trained[0]), load_checkpoint(tmp_path)
    assert not torch.equal(first.backbone.conv1.weight, second.backbone.conv1.weight)


def test_provenance_tells_where_the_weights_come_from(trained, digits_shards):
    provenance = read_provenance(trained[0])
    assert provenance["data"] == read_index(digits_shards).fingerprint
    assert TrainingConfig.from_json(json.dumps(provenance["settings"])) == SETTINGS


def test_curves_and_the_best_epoch(digits_shards, tmp_path):
    run = Recorder()
    attack = {"name": "pgd", "epsilon": 0.1, "steps": 3}
    settings = replace(
        SETTINGS,
        objective={"name": "adversarial", "attack": attack, "clean_share": 0.5},
        selection=attack,
        epochs=3,
    )
    kept = train(settings, data=digits_shards, target=tmp_path, run=run)
    assert [step for step, _ in run.curves] == [1, 2, 3]
    assert {"loss", "clean_loss", "adversarial_loss"} <= run.curves[0][1].keys()
    assert all(0 <= curve["zero_gradients"] < 0.5 for _, curve in run.curves)
    accuracies = [curve["validation_robust_accuracy"] for _, curve in run.curves]
    assert kept["validation_robust_accuracy"] == max(accuracies)
    assert accuracies[int(kept["epoch"]) - 1] == max(accuracies)


def test_stage_starts_from_the_initial_weights_and_changes_defences(
    trained, digits_shards, tmp_path
):
    settings = replace(SETTINGS, backbone=None, defences=RESIZE, epochs=0)
    train(settings, data=digits_shards, target=tmp_path, initial=trained[0])
    before, after = load_checkpoint(trained[0]), load_checkpoint(tmp_path)
    assert after.spec.defences == RESIZE and not before.spec.defences
    assert torch.equal(before.backbone.dense4.weight, after.backbone.dense4.weight)


def test_a_first_epoch_that_collapses_leaves_nothing_to_keep(trained, digits_shards, tmp_path):
    """What has met small attacks alone withstands a larger step far better than five of them."""
    attack = {"name": "fgsm_rs", "epsilon": 0.1}
    settings = replace(SETTINGS, objective=attack, collapse_epsilon=0.17, batch_size=16)
    for _ in range(2):  # also where the state of the first attempt is found
        with pytest.raises(TrainingCollapsed, match="several, after the first epoch already"):
            train(settings, data=digits_shards, target=tmp_path, state=tmp_path / "state")
    assert not (tmp_path / "model.json").exists()
    kept = train(settings, data=digits_shards, target=tmp_path, initial=trained[0])
    assert kept["epoch"] == 0  # the initial model


def test_a_loss_that_explodes_is_said(digits_shards, tmp_path):
    wild = replace(
        SETTINGS, optimizer={"name": "sgd"}, learning_rate=1e12, schedule={"name": "constant"}
    )
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(wild, data=digits_shards, target=tmp_path)


def test_training_from_a_bucket_is_training_from_disk(trained, digits_shards, bucket, tmp_path):
    folder = open_folder(f"{bucket}/digits")
    for path in digits_shards.glob("*.parquet"):
        folder.upload(path, path.name)
    index = replace(read_index(digits_shards), location=folder.address)
    write_index(open_folder(tmp_path / "index only"), index)
    kept = train(SETTINGS, data=tmp_path / "index only", target=tmp_path / "model")
    assert kept == trained[1]
    first, second = load_checkpoint(trained[0]), load_checkpoint(tmp_path / "model")
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])


def test_a_crop_that_comes_first_is_made_while_reading(digits_shards):
    crop = {"name": "random_resized_crop", "smallest_area": 0.5}
    settings = replace(SETTINGS, augmentations=(crop, {"name": "mixup"}))
    (batch, *_), _ = (list(stream.epoch(0)) for stream in streams(settings, digits_shards))
    assert batch.images.shape == (64, 1, 28, 28)
    # Cropped in 8 bits and then mixed: without mixup, every pixel is a whole number of 255ths.
    (plain, *_) = streams(replace(settings, augmentations=(crop,)), digits_shards)[0].epoch(0)
    levels = plain.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    uncropped = next(streams(replace(settings, augmentations=()), digits_shards)[0].epoch(0))
    assert torch.equal(uncropped.rows, plain.rows)
    assert not torch.equal(uncropped.images, plain.images)
    assert ((batch.targets > 0).sum(1) <= 2).all() and (batch.targets > 0).sum() > 64


def test_a_flip_after_the_crop_is_made_with_it(digits_shards):
    crop, flip = {"name": "random_resized_crop"}, {"name": "horizontal_flip", "probability": 1}
    cropped, flipped = (
        next(streams(replace(SETTINGS, augmentations=chain), digits_shards)[0].epoch(0)).images
        for chain in ((crop,), (crop, flip))
    )
    first = cropped[0].flip(2)  # later ones are drawn from where the first one's draws ended
    assert torch.equal(flipped[0], first) and not torch.equal(cropped[0], first)


def test_an_unknown_augmentation_is_named_before_anything_is_read(tmp_path):
    settings = replace(SETTINGS, augmentations=({"name": "blurr"},))
    with pytest.raises(ValueError, match="unknown name 'blurr'"):
        train(settings, data=tmp_path / "missing", target=tmp_path)


def test_a_last_batch_without_statistics_is_refused(tmp_path):
    """VGG16 normalises what it knows of an image as a whole."""
    prepare(DataConfig(source={"name": "digits"}, image_size=32), tmp_path)
    backbone = {"name": "vgg16", "widths": [2] * 15}
    settings = replace(SETTINGS, backbone=backbone, batch_size=106)  # of 1,167 images
    with pytest.raises(ValueError, match="1167 images leave one alone in the last batch"):
        train(settings, data=tmp_path, target=tmp_path / "model")
