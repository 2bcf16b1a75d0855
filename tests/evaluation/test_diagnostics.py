"""Which checks accuse whom: broken defences are masked, honest models are not."""

import pytest
import torch
from torch import nn

from components.defences import DEFENCES
from components.evaluation.diagnostics import judge_trust
from components.evaluation.report import Check

GradientConcealment = DEFENCES["gradient_concealment"]


class Around(nn.Module):
    """A model around another one that declares no honest view."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class ScaledLogits(Around):
    def forward(self, images):
        return 100 * self.inner(images)


class QuantisedInput(Around):
    def forward(self, images):
        return self.inner((images * 15).round() / 15)


class SignFlipped(Around):
    def forward(self, images):
        return self.inner(2 * images.detach() - images)


class Shattered(Around):
    def forward(self, images):
        return self.inner(images + 0.02 * torch.sin(200 * torch.pi * images))


class NoNumbers(Around):
    """Right logits whose gradient is not a number."""

    def forward(self, images):
        zero = images - images.detach()
        return self.inner(images) + (zero.abs().sqrt() * zero.sign()).sum((1, 2, 3))[:, None]


def verdicts(measured) -> dict[str, str]:
    return {check.id: check.verdict for check in measured.checks}


@pytest.mark.parametrize("honest", [None, ScaledLogits], ids=["linear", "scaled logits"])
def test_honest_models_are_not_accused(measure, honest):
    """Scaled logits hide nothing from a loss that does not underflow."""
    assert set(verdicts(measure(honest)).values()) == {"pass"}
    assert judge_trust(measure(honest).checks) == "trusted"


@pytest.mark.parametrize(
    ("broken", "accusers"),
    [
        (GradientConcealment, {"G3", "T1"}),
        (QuantisedInput, {"G1", "S5"}),
        (SignFlipped, {"G3", "S5"}),
        (Shattered, {"G3"}),
        (NoNumbers, {"G1", "G3"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_defences_are_masked(measure, broken, accusers):
    measured = measure(broken)
    assert judge_trust(measured.checks) == "masked"
    failed = {name for name, verdict in verdicts(measured).items() if verdict == "fail"}
    assert accusers <= failed


def test_every_check_explains_itself(measure):
    for check in measure(GradientConcealment).checks:
        assert check.title and check.explanation.endswith(".") and check.remedy.endswith(".")


def check(verdict) -> Check:
    return Check(
        id="X", title="t", value=0.0, threshold=0.0, verdict=verdict, explanation="", remedy=""
    )


@pytest.mark.parametrize(
    ("verdicts", "trust"),
    [
        ([], "trusted"),
        (["pass", "warn", "warn"], "trusted"),
        (["warn", "warn", "warn"], "doubtful"),
        (["pass", "fail"], "masked"),
    ],
)
def test_trust_sums_the_checks_up(verdicts, trust):
    assert judge_trust([check(verdict) for verdict in verdicts]) == trust
