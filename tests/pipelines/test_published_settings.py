"""The full recipes have the settings that were published; the modules name what differs."""

import pytest

from pipelines.recipes import RECIPES

GCM = {
    "optimizer": {"name": "adamax"},
    "learning_rate": 1e-4,
    "head_learning_rate": 1e-3,
    "schedule": {"name": "step", "every": 70, "factor": 0.5},
    "weight_decay": 1e-3,
    "batch_size": 320,
}
PART = {
    "optimizer": {"name": "sgd"},
    "learning_rate": 0.01,
    "weight_decay": 2e-4,
    "batch_size": 128,
    "epochs": 80,
}
MNIST = {
    "optimizer": {"name": "adamax"},
    "learning_rate": 1e-3,
    "weight_decay": 1e-5,
    "clip_norm": 10.0,
    "epochs": 100,
}
CLEAN = {"batch_size": 300, "schedule": {"name": "plateau", "patience": 10}, "patience": 20}
ATTACKED = {"schedule": {"name": "plateau", "patience": 15}, "patience": 10}
SVHN = {"optimizer": {"name": "adam"}, "learning_rate": 1e-4, "weight_decay": 0, "clip_norm": 5.0}


@pytest.mark.parametrize(
    ("recipe", "section", "published"),
    [
        ("gcm", "stage_one", GCM),
        ("gcm", "stage_two", GCM),
        ("gcm_ml_decoder", "stage_two", GCM),
        ("part", "part", PART),
        ("part_controls", "shuffled", PART),
        ("fpd_mnist", "decoder", MNIST | CLEAN),
        ("fpd_mnist", "decoder_adversarial", MNIST | ATTACKED | {"batch_size": 200}),
        ("fpd_svhn", "decoder", SVHN | CLEAN),
        ("fpd_svhn", "decoder_adversarial", SVHN | ATTACKED | {"batch_size": 64}),
    ],
)
def test_training(recipe, section, published):
    settings = RECIPES[recipe].sections()[section]
    assert {name: getattr(settings, name) for name in published} == published


@pytest.mark.parametrize("recipe", ["fpd_mnist", "fpd_svhn"])
def test_the_twin_without_decoder_has_the_network_s_own_activation(recipe):
    arms = RECIPES[recipe].sections()
    for alone, behind in (("plain", "decoder"), ("adversarial", "decoder_adversarial")):
        backbone = arms[behind].backbone
        assert backbone["activation"] == "elu"
        assert arms[alone].backbone == {k: v for k, v in backbone.items() if k != "activation"}
        assert arms[alone].defences == ()
    assert arms["adversarial"].objective["clean_share"] == 0.5
    assert arms["decoder_adversarial"].objective["clean_share"] == 0.5


def test_concealment_is_measured_at_the_table_s_radius():
    assert RECIPES["gcm"].evaluation.epsilon == 8 / 255


def test_the_first_phase_draws_nothing():
    [pad] = RECIPES["gcm_phase_one"].stage_two.defences
    assert pad["fixed"] and round(224 * pad["min_size"]) == 218
