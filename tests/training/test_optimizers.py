"""The head with a rate of its own is the one that gives the logits."""

import pytest
import torch

from components.models.build import ModelSpec, build_model
from components.training.config import TrainingConfig
from components.training.optimizers import grouped

SETTINGS = TrainingConfig(objective="cross_entropy", learning_rate=0.01, head_learning_rate=0.1)
DECODER = {"name": "feature_pyramid_decoder", "width": 4, "image_size": 28}
IMAGES = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("decoder", "names"),
    [
        ({}, {"network.inner.1.dense4.weight", "network.inner.1.dense4.bias"}),
        ({"passes": 1}, {"network.inner.1.dense4.weight", "network.inner.1.dense4.bias"}),
        ({"head": "pooled"}, {"network.pooled.weight", "network.pooled.bias"}),
        (
            {"trunk": "separate"},
            {"network.back.1.dense4.weight", "network.back.1.dense4.bias"},
        ),
        ({"trunk": "separate", "head": "pooled"}, {"network.pooled.weight", "network.pooled.bias"}),
    ],
)
def test_the_head_behind_a_decoder_is_the_one_in_use(decoder, names):
    spec = ModelSpec(
        backbone="lenet5",
        defences=({**DECODER, **decoder},),
        classes=("a", "b", "c"),
        image_shape=(1, 28, 28),
        mean=(0.5,),
        deviation=(0.5,),
    )
    model = build_model(spec)
    body, head = grouped(model, SETTINGS)
    assert (body["lr"], head["lr"]) == (0.01, 0.1)
    found = {id(weight) for weight in head["params"]}
    assert {name for name, weight in model.named_parameters() if id(weight) in found} == names
    assert len(body["params"]) + len(head["params"]) == len(list(model.parameters()))
    model(IMAGES).sum().backward()
    assert all(weight.grad is not None for weight in head["params"])
