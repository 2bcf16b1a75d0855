"""A stage's model has what the stage before has learnt, and says what it has not."""

from dataclasses import replace

import pytest
import torch

from components.data.index import read_index
from components.models.checkpoint import load_checkpoint, save_checkpoint
from components.training.config import TrainingConfig
from components.training.initial import initial_model

SETTINGS = TrainingConfig(backbone="lenet5", objective="cross_entropy")
DECODER = {"name": "feature_pyramid_decoder", "width": 8, "image_size": 28}
RESIZE = {"name": "random_resize_pad"}


@pytest.fixture
def index(digits_shards):
    return read_index(digits_shards)


@pytest.fixture
def saved(index, tmp_path):
    """A checkpoint with defences, and weights that no other model starts with."""

    def save(*defences):
        model = initial_model(replace(SETTINGS, defences=defences), index, None)
        with torch.no_grad():
            for number, weight in enumerate(model.parameters()):
                weight.fill_(1 + number)
        save_checkpoint(model, tmp_path, provenance={})
        return tmp_path

    return save


def follow(index, initial, *defences):
    """Give the next stage's model, and what was said of it."""
    said = []
    settings = replace(SETTINGS, backbone=None, defences=defences)
    return initial_model(settings, index, initial, say=said.append), said


def parameters(model):
    return torch.cat([weight.flatten() for weight in model.parameters()])


def test_no_backbone_and_no_initial_model(index):
    with pytest.raises(ValueError, match="needs a backbone"):
        initial_model(replace(SETTINGS, backbone=None), index, None)


def test_backbone_that_is_not_the_initial_models(saved, index):
    other = replace(SETTINGS, backbone={"name": "timm", "model": "resnet18"})
    with pytest.raises(ValueError, match="leave the backbone out"):
        initial_model(other, index, saved())


def test_classes_that_are_not_the_initial_models(saved, index):
    other = replace(index, classes=("cat", "dog"))
    with pytest.raises(ValueError, match="knows the classes"):
        initial_model(replace(SETTINGS, backbone=None), other, saved())


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 64, 64), "64 x 64 pixels in 1 channel$"), ((3, 28, 28), "28 x 28 pixels in 3 channels")],
)
def test_images_that_are_not_the_initial_models(shape, words, saved, index):
    normalisation = {"mean": (0.5,) * shape[0], "deviation": (0.5,) * shape[0]}
    other = replace(index, image_shape=shape, **normalisation)
    with pytest.raises(ValueError, match=f"sees images of 28 x 28 .* the data has {words}"):
        initial_model(replace(SETTINGS, backbone=None), other, saved())


@pytest.mark.parametrize("trunk", ["shared", "own_norms", "separate"])
def test_the_same_defences_keep_all_that_they_have_learnt(trunk, saved, index):
    decoder = {**DECODER, "trunk": trunk}
    folder = saved(RESIZE, decoder)
    model, said = follow(index, folder, RESIZE, decoder)
    weights = model.state_dict()
    for name, weight in load_checkpoint(folder).state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert not said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((DECODER,), (DECODER, RESIZE)),
        ((DECODER,), (RESIZE, DECODER)),
        ((RESIZE, DECODER), ({**RESIZE, "min_size": 0.9}, DECODER)),
        ((RESIZE, DECODER, RESIZE), (DECODER,)),
    ],
)
def test_a_decoder_keeps_its_weights_where_others_come_and_go(before, after, saved, index):
    folder = saved(*before)
    model, said = follow(index, folder, *after)
    assert torch.equal(parameters(model), parameters(load_checkpoint(folder)))
    assert not said


def test_a_decoder_that_is_new_or_left_out_is_said(saved, index):
    model, said = follow(index, saved(), DECODER)
    assert said == [f"{DECODER} starts from fresh weights: the initial model has no such"]
    assert torch.equal(model.backbone.dense4.bias, torch.full((10,), 8.0))
    model, said = follow(index, saved(DECODER), RESIZE)
    assert said == [f"{DECODER} of the initial model is left out, with what it has learnt"]
    assert len(parameters(model).unique()) == 8


def test_a_decoder_with_other_options_starts_afresh(saved, index):
    other = {**DECODER, "width": 16}
    _, said = follow(index, saved(DECODER), other)
    assert len(said) == 2 and str(other) in said[0] and "is left out" in said[1]


def test_a_copied_trunk_that_is_around_something_else_starts_from_the_front(saved, index):
    decoder = {**DECODER, "trunk": "separate"}
    model, said = follow(index, saved(decoder), RESIZE, decoder)
    back = dict(model.network.back.named_parameters())
    for name, weight in model.network.inner.named_parameters():
        assert torch.equal(weight, back[name])
    assert "starts from fresh weights" in said[0]


def test_defences_without_weights_are_not_worth_a_word(saved, index):
    assert follow(index, saved(RESIZE), {"name": "smoothing"})[1] == []
