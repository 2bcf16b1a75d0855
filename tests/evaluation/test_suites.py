"""Suites hold the attacks they are known for, at the radii of the table that they reproduce."""

import pytest

from components.attacks import ATTACKS
from components.choose import choose
from components.evaluation.config import EvaluationConfig
from components.evaluation.suites import SUITES, at_budget, expand

IMAGENET = 3 * 224 * 224


@pytest.mark.parametrize("suite", SUITES)
def test_every_attack_of_a_suite_exists_with_these_options(suite):
    for choice in SUITES[suite]:
        budget = at_budget(choice, norm="linf", epsilon=8 / 255, num_pixels=IMAGENET)
        choose(ATTACKS, budget, given=("seed", "batch_size"))


def test_a_suite_stands_for_its_attacks():
    square = {"name": "square", "queries": 10}
    assert list(expand([{"name": "fast"}, square])) == [*SUITES["fast"], square]
    with pytest.raises(ValueError, match="suite fast takes no options"):
        list(expand([{"name": "fast", "steps": 10}]))


def test_standard_is_autoattack_s_four():
    names = [choice["name"] for choice in SUITES["standard"]]
    assert names == ["apgd", "apgd_targeted", "fab", "square"]


def test_paper_has_the_published_radii_at_the_published_size():
    columns = [
        at_budget(choice, norm="linf", epsilon=8 / 255, num_pixels=IMAGENET)
        for choice in SUITES["paper"]
    ]
    found = [(column["name"], column["norm"], column["epsilon"]) for column in columns]
    assert found == [
        ("fgsm", "linf", pytest.approx(8 / 255)),
        ("pgd", "l1", pytest.approx(1600)),
        ("pgd", "l2", pytest.approx(8)),
        ("pgd", "linf", pytest.approx(8 / 255)),
        ("carlini_wagner", "l2", pytest.approx(8)),
    ]
    steps = {column["norm"]: column["step_size"] for column in columns if "step_size" in column}
    assert steps == {"l1": pytest.approx(120), "l2": 0.6, "linf": pytest.approx(0.6 / 255)}


def test_other_norms_keep_the_change_of_an_average_pixel():
    """A quarter of the pixels: the same largest change, half the distance, a quarter of the sum."""
    choices = ({"name": "pgd", "norm": norm} for norm in ("linf", "l2", "l1"))
    radii = [
        at_budget(choice, norm="linf", epsilon=4 / 255, num_pixels=IMAGENET // 4)["epsilon"]
        for choice in choices
    ]
    assert radii == [pytest.approx(4 / 255), pytest.approx(2.0), pytest.approx(200)]
    back = at_budget({"name": "pgd", "norm": "linf"}, norm="l2", epsilon=8, num_pixels=IMAGENET)
    assert back["epsilon"] == pytest.approx(8 / 255)


WRONG = {
    "suite must name at least one attack": {"suite": ()},
    "two attacks alike": {
        "suite": ({"name": "pgd", "steps": 20}, {"name": "pgd", "restarts": 20}),
    },
    "less than the 0.0313725 of the threat model": {"suite": ({"name": "pgd", "epsilon": 0.001},)},
    "at least once in the threat model's linf": {"suite": ({"name": "pgd", "norm": "l2"},)},
    "set survivors_only to false": {"suite": ("paper",)},
}


@pytest.mark.parametrize(("message", "fields"), WRONG.items(), ids=WRONG)
def test_suites_that_could_mislead_are_refused(message, fields):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(epsilon=8 / 255, **fields)
