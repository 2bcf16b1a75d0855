"""Attack losses against worked values, identities, and where float32 gives up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from components.attacks.losses import (
    LOSSES,
    TARGETED_LOSSES,
    choose_loss,
    choose_targeted_loss,
    cross_entropy,
    difference_of_logits_ratio,
    logit_odds,
    margin,
)

logits_and_label = st.integers(4, 6).flatmap(
    lambda classes: st.tuples(
        st.lists(st.floats(-20, 20, width=32), min_size=classes, max_size=classes),
        st.integers(0, classes - 1),
    )
)


def on(loss, logits, *labels):
    return loss(torch.tensor([logits]), *(torch.tensor([label]) for label in labels)).item()


def gradient(loss, logits, label, dtype=torch.float32):
    leaf = torch.tensor([logits], dtype=dtype, requires_grad=True)
    loss(leaf, torch.tensor([label])).sum().backward()
    return leaf.grad[0].tolist()


@pytest.mark.parametrize(
    ("logits", "label", "entropy", "difference", "ratio"),
    [
        ((2.0, 1.0, 0.0, -1.0), 0, 0.440190, -1.0, -0.5),
        ((0.5, 0.2, 3.0, -0.5), 0, 2.659643, 2.5, 0.892857),
        ((-1.0, -2.0, -3.0, -4.0), 0, 0.440190, -1.0, -0.5),  # all negative: 0 must not win
        ((1.0, 1.0, 1.0, 1.0), 2, 1.386294, 0.0, 0.0),
        ((1.0, 0.9, 0.9), 0, 1.033069, -0.1, -1.0),  # larger cross-entropy, yet right ...
        ((1.0, 1.2, -5.0), 0, 0.799254, 0.2, 0.032258),  # ... than where it is wrong
    ],
)
def test_worked_values(logits, label, entropy, difference, ratio):
    assert on(cross_entropy, logits, label) == pytest.approx(entropy, abs=1e-6)
    assert on(margin, logits, label) == pytest.approx(difference, abs=1e-6)
    assert on(difference_of_logits_ratio, logits, label) == pytest.approx(ratio, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "target", "entropy", "difference", "ratio"),
    [
        ((2.0, 1.0, 0.0, -1.0), 1, -1.440190, -1.0, -0.4),
        ((2.0, 1.0, 0.0, -1.0), 3, -3.440190, -3.0, -1.2),
        ((0.5, 0.2, 3.0, -0.5), 1, -2.959643, -0.3, -0.095238),
        ((0.5, 0.2, 3.0, -0.5), 3, -3.659643, -1.0, -0.317460),
        ((1.0, 1.0, 1.0, 1.0), 2, -1.386294, 0.0, 0.0),
    ],
)
def test_worked_values_towards_a_target(logits, target, entropy, difference, ratio):
    expected = {"cross_entropy": entropy, "margin": difference, "dlr": ratio}
    for name, loss in TARGETED_LOSSES.items():
        assert on(loss, logits, 0, target) == pytest.approx(expected[name], abs=1e-6)


@given(logits_and_label)
def test_the_best_target_gives_the_margin(case):
    logits, label = case
    others = [other for other in range(len(logits)) if other != label]
    best = max(on(TARGETED_LOSSES["margin"], logits, label, other) for other in others)
    assert best == pytest.approx(on(margin, logits, label), abs=1e-5)


@given(logits_and_label, st.floats(0.125, 8))
def test_the_ratio_is_blind_to_scale_and_tells_right_from_wrong(case, scale):
    logits, label = case
    top = sorted(logits, reverse=True)
    if top[0] - top[2] < 0.1:
        return  # the smallest difference float32 leaves whole
    ratio = on(difference_of_logits_ratio, logits, label)
    scaled = on(difference_of_logits_ratio, [scale * logit for logit in logits], label)
    assert scaled == pytest.approx(ratio, abs=1e-4)
    difference = on(margin, logits, label)
    if difference:
        assert (ratio > 0) == (difference > 0)
        assert difference > 0 or ratio >= -1 - 1e-6


@pytest.mark.parametrize("name", ["cross_entropy", "margin"])
def test_two_classes_suffice_for_all_but_the_ratios(name):
    assert math.isfinite(on(LOSSES[name], (1.0, 0.0), 0))
    assert math.isfinite(on(TARGETED_LOSSES[name], (1.0, 0.0), 0, 1))


def test_ratios_need_more_classes():
    with pytest.raises(ValueError, match="dlr needs at least 3 classes, the model tells 2 apart"):
        on(LOSSES["dlr"], (1.0, 0.0), 0)
    with pytest.raises(ValueError, match=r"targeted dlr needs at least 4 classes, .* 3 apart"):
        on(TARGETED_LOSSES["dlr"], (1.0, 0.0, 2.0), 0, 1)


@pytest.mark.parametrize("loss", [*LOSSES.values(), *TARGETED_LOSSES.values()])
@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        ((1.0, 0.0, 2.0, 3.0), 4, "labels must be below the 4 classes of the model, got 4"),
        ((1.0, 0.0, 2.0, math.nan), 0, "logits must be finite"),
        ((1.0, 0.0, 2.0, math.inf), 0, "logits must be finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(loss, logits, label, message):
    targets = (label,) if loss in TARGETED_LOSSES.values() else ()
    with pytest.raises(ValueError, match=message):
        on(loss, logits, label, *targets)


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
    top = sorted(logits, reverse=True)
    if top[0] - top[2] < 0.1:
        return  # the ratio divides by it, and the shift has rounded it
    shifted = [logit + shift for logit in logits]
    assert on(loss, shifted, label) == pytest.approx(on(loss, logits, label), abs=2e-4)


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


def test_unknown_targeted_loss():
    with pytest.raises(ValueError, match=r"unknown targeted loss 'hope', expected one of \['cross"):
        choose_targeted_loss("hope")


def test_unknown_loss():
    with pytest.raises(ValueError, match=r"unknown loss 'hope', expected one of \['cross_entropy"):
        choose_loss("hope")
