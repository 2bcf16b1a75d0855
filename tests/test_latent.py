"""Vulnerability on features small enough to count, and features where a model names them."""

import pytest
import torch
from torch import nn

from components.latent import latent_features, vulnerability


class Named(nn.Module):
    latent_features = ("0",)

    def __init__(self):
        super().__init__()
        self.add_module("0", nn.Identity())

    def forward(self, images):
        return self.get_submodule("0")(2 * images).flatten(1)


def test_mean_over_each_feature_then_over_the_features():
    clean, adversarial = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5)
    features = [torch.cat([clean, adversarial]), torch.tensor([[0.0], [2.0]])]
    expected = ((clean - adversarial).abs().mean() + 2) / 2
    assert torch.allclose(vulnerability(features), expected)


def test_sum_over_units_and_mean_over_images():
    features = [torch.tensor([[0.0, 1.0], [0.0, 0.0], [3.0, 0.0], [0.0, -1.0]])]
    assert float(vulnerability(features, form="sum")) == pytest.approx((4 + 1) / 2)
    assert float(vulnerability(features)) == pytest.approx((4 + 1) / 4)


def test_features_are_collected_only_meanwhile():
    model = nn.Sequential(nn.Identity(), Named())
    with latent_features(model) as features:
        model(torch.ones(3, 1, 2, 2))
    model(torch.ones(3, 1, 2, 2))
    assert len(features) == 1 and torch.equal(features[0], torch.full((3, 1, 2, 2), 2.0))


def test_a_model_without_names_is_refused():
    with (
        pytest.raises(ValueError, match="Linear does not name its latent_features"),
        latent_features(nn.Linear(1, 1)),
    ):
        pass
