"""Attack losses against worked values, identities, and where float32 gives up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from components.attacks.losses import LOSSES, choose_loss, cross_entropy, logit_odds, margin

logits_and_label = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.lists(st.floats(-20, 20, width=32), min_size=classes, max_size=classes),
        st.integers(0, classes - 1),
    )
)


def on(loss, logits, label):
    return loss(torch.tensor([logits]), torch.tensor([label])).item()


def gradient(loss, logits, label, dtype=torch.float32):
    leaf = torch.tensor([logits], dtype=dtype, requires_grad=True)
    loss(leaf, torch.tensor([label])).sum().backward()
    return leaf.grad[0].tolist()


@pytest.mark.parametrize(
    ("logits", "label", "entropy", "difference"),
    [
        ((2.0, 1.0, 0.0, -1.0), 0, 0.440190, -1.0),
        ((0.5, 0.2, 3.0, -0.5), 0, 2.659643, 2.5),
        ((-1.0, -2.0, -3.0, -4.0), 0, 0.440190, -1.0),  # all negative: 0 must not win
        ((1.0, 1.0, 1.0, 1.0), 2, 1.386294, 0.0),
        ((1.0, 0.9, 0.9), 0, 1.033069, -0.1),  # larger cross-entropy, yet right ...
        ((1.0, 1.2, -5.0), 0, 0.799254, 0.2),  # ... than where it is wrong
    ],
)
def test_worked_values(logits, label, entropy, difference):
    assert on(cross_entropy, logits, label) == pytest.approx(entropy, abs=1e-6)
    assert on(margin, logits, label) == pytest.approx(difference, abs=1e-6)


def test_logit_odds_are_the_log_odds_of_being_wrong():
    probabilities = (0.7, 0.2, 0.1)
    odds = on(logit_odds, [math.log(p) for p in probabilities], 0)
    assert odds == pytest.approx(math.log(0.3 / 0.7))


@given(logits_and_label)
def test_cross_entropy_is_softplus_of_logit_odds(case):
    odds = torch.tensor(on(logit_odds, *case))
    assert on(cross_entropy, *case) == pytest.approx(functional.softplus(odds).item(), abs=2e-5)


@given(logits_and_label)
def test_logit_odds_lie_just_above_the_margin(case):
    """A maximum is at most its log-sum-exp, which exceeds it by at most log of the others."""
    above = on(logit_odds, *case) - on(margin, *case)
    assert -1e-5 <= above <= math.log(len(case[0]) - 1) + 1e-5


@given(logits_and_label)
def test_positive_margin_is_a_wrong_prediction(case):
    logits, label = case
    difference = on(margin, logits, label)
    if difference:
        assert (difference > 0) == (int(torch.tensor(logits).argmax()) != label)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@given(case=logits_and_label, shift=st.floats(-50, 50))
def test_shift_changes_nothing(loss, case, shift):
    logits, label = case
    shifted = [logit + shift for logit in logits]
    assert on(loss, shifted, label) == pytest.approx(on(loss, logits, label), abs=1e-4)


@pytest.mark.parametrize(
    ("gap", "own", "other"),
    [(10, -9.08e-5, 4.54e-5), (15, -7.15e-7, 3.06e-7), (50, 0.0, math.exp(-50)), (104, 0.0, 0.0)],
)
def test_gradient_of_cross_entropy_dies_on_a_sure_model(gap, own, other):
    assert gradient(cross_entropy, (gap, 0.0, 0.0), 0) == pytest.approx(
        [own, other, other], rel=2e-3, abs=1e-45
    )


@pytest.mark.parametrize("gap", [0, 10, 17, 104, 1e4, 1e30])
def test_gradient_of_logit_odds_does_not(gap):
    assert gradient(logit_odds, (gap, 0.0, 0.0), 0) == pytest.approx([-1, 0.5, 0.5])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_half_precision_logits_are_measured_in_float32(loss, dtype):
    logits = torch.tensor([[9.0, 0.125, -3.0]], dtype=dtype)
    values = loss(logits, torch.tensor([0]))
    assert values.dtype == torch.float32
    assert torch.equal(values, loss(logits.float(), torch.tensor([0])))
    own, *others = gradient(loss, (9.0, 0.0, -3.0), 0, dtype)
    assert own < 0 < others[0]  # bf16 loses the true class from a gap of 7, fp16 from 9


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_sample_has_its_own_value(loss):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0])
    alone = [loss(logits[i : i + 1], labels[i : i + 1]) for i in range(5)]
    assert torch.allclose(loss(logits, labels), torch.cat(alone))


def test_unknown_loss():
    with pytest.raises(ValueError, match=r"unknown loss 'hope', expected one of \['cross_entropy"):
        choose_loss("hope")
