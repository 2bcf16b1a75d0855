"""Lanes stay full, waste nothing on what has fallen, and the outcome does not depend on them."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from components.attacks.lanes import Lanes, LaneState, Strongest

IMAGES, ATTEMPTS, LENGTH = 23, 4, 9
NEVER = LENGTH


@pytest.fixture(scope="module")
def falls():
    """At which evaluation each attempt at each image succeeds; most never do."""
    generator = torch.Generator().manual_seed(0)
    ages = torch.randint(0, 3 * LENGTH, (IMAGES, ATTEMPTS), generator=generator)
    return ages.clamp_max(NEVER)


@dataclass
class Tags(LaneState):
    """What every lane should be working on."""

    rows: Tensor
    attempts: Tensor
    picture: Tensor


def tags(lanes, chosen):
    rows, attempts = lanes.rows[chosen].clone(), lanes.attempts[chosen].clone()
    return Tags(rows, attempts, torch.stack([rows, attempts], 1).view(-1, 1, 1, 2))


def play(falls, size, stop=True):
    """Run all attempts; give the winners, and who was evaluated in every step."""
    lanes = Lanes(IMAGES, attempts=ATTEMPTS, length=LENGTH, size=size)
    state, winners, steps = tags(lanes, slice(None)), {}, []
    while len(lanes):
        rows, attempts, ages = lanes.rows.clone(), lanes.attempts.clone(), lanes.ages.clone()
        steps.append(list(zip(rows.tolist(), attempts.tolist(), ages.tolist(), strict=True)))
        assert torch.equal(state.rows, rows) and torch.equal(state.attempts, attempts)
        assert torch.equal(state.picture.view(-1, 2), torch.stack([rows, attempts], 1))
        first, ended = lanes.judge((falls[rows, attempts] == ages) & stop)
        winners |= dict(zip(rows[first].tolist(), attempts[first].tolist(), strict=True))
        moves = lanes.refill(ended)
        state.follow(moves, tags(lanes, moves.fresh) if len(moves.fresh) else None)
    return winners, steps


SIZES = [1, 2, 7, 23, 50, 1000]


@pytest.mark.parametrize("size", SIZES)
def test_the_first_attempt_that_succeeds_wins(size, falls):
    succeeds = (falls < NEVER).int()
    expected = {row: int(succeeds[row].argmax()) for row in range(IMAGES) if succeeds[row].any()}
    assert 5 < len(expected) < IMAGES
    assert play(falls, size)[0] == expected


@pytest.mark.parametrize("size", SIZES)
def test_every_attempt_goes_from_its_start_to_its_end_without_a_gap(size, falls):
    _, steps = play(falls, size)
    seen = {}
    for number, step in enumerate(steps):
        assert len({lane[:2] for lane in step}) == len(step)
        for row, attempt, age in step:
            first = seen.setdefault((row, attempt), number)
            assert age == number - first
    for row in range(IMAGES):
        succeeding = [attempt for attempt in range(ATTEMPTS) if falls[row, attempt] < NEVER]
        for attempt in range((succeeding or [ATTEMPTS - 1])[0] + 1):
            evaluations = sum((row, attempt, age) in s for s in steps for age in range(LENGTH))
            assert evaluations == min(int(falls[row, attempt]) + 1, LENGTH)


def test_one_lane_makes_no_evaluation_too_many(falls):
    _, steps = play(falls, 1)
    needed = 0
    for row in falls.tolist():
        for age in row:
            needed += min(age + 1, LENGTH)
            if age < NEVER:
                break
    assert len(steps) == needed


@pytest.mark.parametrize("size", SIZES)
def test_without_an_end_at_the_first_success_all_attempts_are_made(size, falls):
    winners, steps = play(falls, size, stop=False)
    assert not winners
    made = sorted(lane for step in steps for lane in step)
    assert made == sorted(itertools.product(range(IMAGES), range(ATTEMPTS), range(LENGTH)))
    assert len(steps) <= -(-len(made) // size) + LENGTH


@pytest.mark.parametrize("size", [2, 7, 20])
def test_lanes_are_full_until_the_last_attempt_has_begun(size, falls):
    _, steps = play(falls, size)
    last_start = max(n for n, step in enumerate(steps) if any(age == 0 for *_, age in step))
    assert all(len(step) == size for step in steps[:last_start])
    assert all(len(step) <= size for step in steps)


@pytest.mark.parametrize("size", SIZES)
def test_attempts_start_in_order_and_never_at_what_has_fallen(size, falls):
    _, steps = play(falls, size)
    starts = [lane for step in steps for lane in step if lane[2] == 0]
    begun = [attempt for _, attempt, _ in starts]
    if size == 1:
        assert begun == sorted(begun)
    fallen = set()
    for step in steps:
        assert not any(age == 0 and row in fallen for row, _, age in step)
        fallen |= {row for row, attempt, age in step if falls[row, attempt] == age}


def test_the_strongest_point_is_the_same_in_any_order():
    generator = torch.Generator().manual_seed(0)
    offers = [
        (row, attempt, bool(torch.rand((), generator=generator) < 0.3), score)
        for row, attempt in itertools.product(range(5), range(6))
        for score in torch.randint(0, 3, (2,), generator=generator).tolist()
    ]
    for _ in range(20):
        strongest = Strongest(torch.zeros(6, 1, 1, 3))
        order = torch.randperm(len(offers), generator=generator).tolist()
        for row, attempt, fooled, score in (offers[i] for i in order):
            strongest.offer(
                torch.tensor([1]),
                torch.tensor([row]),
                torch.tensor([attempt]),
                torch.tensor([9.0, attempt, score]).view(1, 1, 1, 3).expand(2, -1, -1, -1),
                torch.tensor([99.0, score]),
                fooled=fooled,
            )
        for row in range(5):
            mine = [o for o in offers if o[0] == row]
            _, attempt, _, score = max(mine, key=lambda o: (o[2], o[3], -o[1]))
            assert strongest.adversarial[row].flatten().tolist() == [9, attempt, score]
        assert not strongest.adversarial[5].any()


def test_two_attempts_at_one_image_may_be_offered_at_once():
    points = torch.arange(4.0).view(4, 1, 1, 1)
    scores = torch.tensor([0.0, 3.0, 5.0, 5.0])
    for lanes in itertools.permutations([1, 2, 3]):
        strongest = Strongest(torch.full((2, 1, 1, 1), -1.0))
        chosen = torch.tensor(lanes)
        rows, attempts = torch.ones(3, dtype=torch.int64), torch.tensor([7, 9, 8, 6])[chosen]
        strongest.offer(chosen, rows, attempts, points, scores, fooled=False)
        assert strongest.adversarial.flatten().tolist() == [-1, 3]
