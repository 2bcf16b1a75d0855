"""The words of a small model."""

import dataclasses

import pytest

from components.models.build import ModelSpec

SMALL = ModelSpec(
    backbone={"name": "lenet5", "widths": [3, 4, 64, 5]},
    classes=("cat", "dog", "eel"),
    image_shape=(2, 28, 28),
    mean=(0.2, 0.4),
    deviation=(0.5, 0.25),
)


@pytest.fixture
def make_spec():
    """Give the small model's spec with some of its fields changed."""

    def make(**changes) -> ModelSpec:
        return dataclasses.replace(SMALL, **changes)

    return make
