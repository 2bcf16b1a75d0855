"""Chains of augmentations: the published probabilities, usable in a stage's settings."""

from dataclasses import replace

import pytest

from components.augmentations.operations import OPERATIONS
from components.training.config import TrainingConfig
from pipelines.recipes import RECIPES, chains
from pipelines.settings import check_choices

CHAINS = {
    "PUBLISHED": chains.PUBLISHED,
    "FIRST_PHASE": chains.FIRST_PHASE,
    "BEFORE_CORRUPTIONS": chains.BEFORE_CORRUPTIONS,
}


def probabilities(chain):
    return chain[-1]["probabilities"]


@pytest.mark.parametrize("name", CHAINS)
def test_a_recipe_takes_the_chain(name):
    stage = replace(RECIPES["tiny"].stage_one, augmentations=CHAINS[name])
    check_choices(replace(RECIPES["tiny"], stage_one=stage))
    again = TrainingConfig.from_json(stage.to_json()).augmentations
    assert [*probabilities(again).items()] == [*probabilities(CHAINS[name]).items()]


@pytest.mark.parametrize("name", CHAINS)
def test_operations_come_in_the_published_order(name):
    known = list(probabilities(CHAINS[name]))
    if name == "BEFORE_CORRUPTIONS":
        assert known.pop(0) == "random_cut"  # before the resize
    assert known == [operation for operation in OPERATIONS if operation in known]


def test_thirty_two_gates_of_a_twentieth():
    gates = probabilities(chains.PUBLISHED)
    assert list(gates) == [name for name in OPERATIONS if name != "random_cut"]
    assert len(gates) == 32 and set(gates.values()) == {0.05}
    assert sum(gates.values()) == pytest.approx(1.6)


def test_the_first_phase():
    gates = probabilities(chains.FIRST_PHASE)
    assert len(gates) == 31 and "frost" not in gates
    counts = {share: list(gates.values()).count(share) for share in set(gates.values())}
    assert counts == {0.1: 16, 0.05: 8, 0.01: 5, 0.001: 2}


def test_no_corruptions_before_there_were_any():
    assert set(probabilities(chains.BEFORE_CORRUPTIONS)) == set(list(OPERATIONS)[:16])
