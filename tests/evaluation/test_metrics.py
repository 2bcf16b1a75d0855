"""The papers' figures on cases small enough to count by hand."""

import pytest
import torch
from torch import nn

from components.evaluation.config import EvaluationConfig
from components.evaluation.measure import measure
from components.evaluation.metrics import attack_robustness, paper_metrics


def test_attack_robustness_counts_initially_right_images_alone():
    clean, robust = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert attack_robustness(robust, clean) == pytest.approx(1 / 3)
    assert attack_robustness(torch.zeros(2), torch.zeros(2)) == 0.0


class OneLayer(nn.Module):
    """A linear model that calls its input a latent feature."""

    latent_features = ("feature",)

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.feature, self.inner = nn.Identity(), inner

    def forward(self, images):
        return self.inner(self.feature(images))


def test_vulnerability_of_the_pixels_is_how_far_they_moved(lin400):
    settings = EvaluationConfig(epsilon=8 / 255, suite=({"name": "fgsm"},), batch_size=150)
    measured = measure(OneLayer(lin400.model), lin400.images, lin400.labels, settings)
    figures = paper_metrics(measured)
    moved = (measured.strongest.images - lin400.images).abs()
    assert figures["vulnerability.mean"] == pytest.approx(float(moved.mean()), rel=1e-4)
    assert figures["vulnerability.sum"] == pytest.approx(
        float(moved.flatten(1).sum(1).mean()), rel=1e-4
    )


def test_median_distance_is_close_to_the_exact_one(measure):
    figures = paper_metrics(measure())
    assert figures["median_distance"] == pytest.approx(0.031812, rel=0.02)
    assert figures["median_distance"] >= 0.031812 - 1e-6
    assert figures["attack_robustness"] == pytest.approx(0.44 / 0.8575)
