"""Objectives are tried before a recipe runs: what would fail in a later epoch fails now."""

import pytest

from pipelines.trial import try_defence, try_objective

PGD = {"name": "pgd", "steps": 2, "keep": "last"}
ADVERSARIAL = {"name": "adversarial", "attack": PGD | {"epsilon": 0.1}}
BUDGET = {"epsilon": 0.1, "low_epsilon": 0.05}
PART = {"name": "part", "attack": PGD, "budget": BUDGET}
TRADES = {"name": "trades", "attack": {"name": "ascent", "epsilon": 0.1, "start": "near"}}
DECODER = {"name": "feature_pyramid_decoder", "width": 4, "levels": ["layer1", "layer2"]}


def in_turn(first, *others, epochs=20):
    """Give objectives that take turns of 20 epochs."""
    if not others:
        return first
    then = in_turn(*others, epochs=epochs + 20)
    return {"name": "warmed_up", "epochs": epochs, "first": first, "then": then}


def part(**budget):
    return PART | {"budget": BUDGET | budget}


@pytest.mark.parametrize("method", ["cam", "gradcam", "gradcam++", "layercam", "xgradcam"])
@pytest.mark.parametrize("defences", [(), ({"name": "lipschitz_head"},), (DECODER,)])
def test_maps_of_every_method_and_layer_can_be_had(method, defences):
    for layer in (None, "layer4", "features.7"):
        try_objective(part(method=method, layer=layer), defences)
        try_objective(in_turn(ADVERSARIAL, part(method=method, layer=layer)), defences)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (part(epsilon=8), "epsilon must be in"),
        (part(method="cma"), "unknown method 'cma'"),
        (part(layer=4), "layer must be of type"),
        (PART | {"precision": "bf16"}, "precision must be"),
        (TRADES | {"beta": -1}, "beta must be at least 0, got -1"),
        (TRADES | {"layer": "layer4"}, "'trades' has no option 'layer'"),
        ({"name": "awp", "objective": "cross_entropy"}, "crafts no adversarial images"),
        ({"name": "n_fgsm", "epsilon": 8.0}, "epsilon must be in"),
    ],
)
def test_what_is_wrong_is_refused_whenever_its_turn_comes(choice, words, unchecked_types):
    good = ADVERSARIAL, TRADES
    for turns in ([choice], [choice, *good], [good[0], choice, good[1]], [*good, choice]):
        with pytest.raises(ValueError, match=words):
            try_objective(in_turn(*turns))


def test_what_is_right_passes_in_any_turn():
    right = [ADVERSARIAL, "cross_entropy", PART | {"precision": "bfloat16"}, TRADES]
    for first in range(4):
        try_objective(in_turn(*right[first:], *right[:first]))


def test_names_of_blocks_are_left_out_only_where_there_may_be_some():
    try_defence(DECODER)
    with pytest.raises(ValueError, match="'bit_depth' has no option 'levels'"):
        try_defence({"name": "bit_depth", "levels": ["layer1"]})
