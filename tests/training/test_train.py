"""A stage learns, repeats bit for bit, keeps its best epoch, and starts from a checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

from components.data.shards import read_index
from components.models.checkpoint import load_checkpoint, read_provenance
from components.training.config import TrainingConfig
from components.training.train import initial_model, train

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


def test_no_backbone_and_no_initial_model(digits_shards):
    with pytest.raises(ValueError, match="needs a backbone"):
        initial_model(replace(SETTINGS, backbone=None), read_index(digits_shards), None)


def test_backbone_that_is_not_the_initial_models(trained, digits_shards):
    other = replace(SETTINGS, backbone={"name": "timm", "model": "resnet18"})
    with pytest.raises(ValueError, match="leave the backbone out"):
        initial_model(other, read_index(digits_shards), trained[0])


def test_classes_that_are_not_the_initial_models(trained, digits_shards):
    index = replace(read_index(digits_shards), classes=("cat", "dog"))
    with pytest.raises(ValueError, match="knows the classes"):
        initial_model(replace(SETTINGS, backbone=None), index, trained[0])


def test_a_loss_that_explodes_is_said(digits_shards, tmp_path):
    wild = replace(SETTINGS, optimizer="sgd", learning_rate=1e12, schedule="constant")
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(wild, data=digits_shards, target=tmp_path)
