"""Learning-rate schedules against their formulas."""

import pytest

from components.choose import choose
from components.training.schedules import SCHEDULES, Moment

NEEDS = {"step": {"milestones": [3, 5]}}


def share(name, epoch, epochs=10, scores=(), **options):
    schedule = choose(SCHEDULES, {"name": name, **NEEDS.get(name, {}), **options})
    return schedule(Moment(epoch, epochs, scores))


@pytest.mark.parametrize("name", SCHEDULES)
def test_share_of_the_peak_stays_in_range(name):
    scores = [0.1] * 10
    assert all(0 <= share(name, done / 10, scores=scores) <= 1 for done in range(101))


@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [
        ("constant", 7, 1),
        ("cosine", 0, 1),
        ("cosine", 5, 0.5),
        ("cosine", 10, 0),
        ("one_cycle", 0, 0),
        ("one_cycle", 3, 1),
        ("one_cycle", 10, 0),
        ("step", 2.99, 1),
        ("step", 3, 0.1),
        ("step", 5.5, 0.01),
    ],
)
def test_known_points(name, epoch, expected):
    assert share(name, epoch) == pytest.approx(expected)


def test_halved_every_70_epochs():
    rates = [share("step", e, 300, milestones=[], every=70, factor=0.5) for e in (69.9, 70, 210)]
    assert rates == [1, 0.5, 0.125]


@pytest.mark.parametrize(
    ("scores", "falls"),
    [
        ([0.1, 0.2, 0.3], 0),
        ([0.3, 0.2, 0.3], 1),  # as good is no better
        ([0.3, 0.2, 0.4, 0.1], 0),
        ([0.3, 0.2, 0.1, 0.3, 0.3], 2),
    ],
)
def test_plateau_falls_after_so_many_epochs_without_a_best(scores, falls):
    assert share("plateau", len(scores), scores=scores, patience=2) == pytest.approx(0.1**falls)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("one_cycle", {"rise": 1.0}, "rise must be between 0 and 1"),
        ("step", {"milestones": []}, "either milestones or every"),
        ("step", {"every": 3}, "either milestones or every"),
        ("step", {"factor": 0.0}, r"factor must be in \(0, 1\]"),
        ("plateau", {"patience": 0}, "patience must be at least 1"),
        ("plateau", {"factor": 2.0}, r"factor must be in \(0, 1\]"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        share(name, 1.0, **options)
