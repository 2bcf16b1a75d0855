"""The linear problem as a subject of evaluation, with and without something to hide."""

import pytest
from torch import nn

from components.evaluation.config import EvaluationConfig
from components.evaluation.measure import measure as measure_model


@pytest.fixture(scope="session")
def settings() -> EvaluationConfig:
    return EvaluationConfig(
        epsilon=8 / 255, suite=SUITE, survivors_only=False, batch_size=128, precision="float32"
    )


SUITE = (
    {"name": "fgsm"},
    {"name": "pgd", "steps": 10, "loss": "margin"},
    {"name": "random_noise", "trials": 20},
)


@pytest.fixture(scope="session")
def measure(lin400, settings):
    """Evaluate a wrapper of the linear model; the same wrapper is measured once."""
    known = {}

    def measure(wrap=None):
        if wrap not in known:
            model: nn.Module = wrap(lin400.model) if wrap else lin400.model
            known[wrap] = measure_model(model, lin400.images, lin400.labels, settings)
        return known[wrap]

    return measure
