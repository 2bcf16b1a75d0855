"""Learning-rate schedules against their formulas."""

import pytest

from components.training.config import TrainingConfig
from components.training.schedules import SCHEDULES


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_share_of_the_peak_stays_in_range(schedule):
    assert all(0 <= schedule(done / 100) <= 1 for done in range(101))


def test_known_points():
    assert SCHEDULES["cosine"](0) == 1
    assert SCHEDULES["cosine"](0.5) == pytest.approx(0.5)
    assert SCHEDULES["cosine"](1) == pytest.approx(0)
    assert SCHEDULES["one_cycle"](0) == 0
    assert SCHEDULES["one_cycle"](0.3) == pytest.approx(1)
    assert SCHEDULES["one_cycle"](1) == pytest.approx(0)


def test_every_schedule_can_be_set():
    for name in SCHEDULES:
        TrainingConfig(objective={"name": "cross_entropy"}, schedule=name)
