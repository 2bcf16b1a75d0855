"""Models that hide from attacks without resisting them, and models that hide nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from components.defences import DEFENCES
from components.evaluation.evaluate import evaluate_robustness
from components.evaluation.report import RobustnessReport

EPSILON = 8 / 255  # on the linear problem
EXACT = 0.44  # robust accuracy of the linear problem there
ROUNDING = 0.0101  # how far above a reference the number may be: four images of 400


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One model, the images to attack it on, and what is known about it.

    Attributes:
        name: for people.
        build: makes the model.
        data: makes images and labels.
        epsilon: radius, linf.
        honest: whether it hides nothing, so that no check may fail and the number must be trusted.
        reference: what an attacker who knows the model's secret leaves at most; None where nobody
            knows.
        alarms: checks that must speak up.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    epsilon: float = EPSILON
    honest: bool = False
    reference: float | None = None
    alarms: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What became of an exhibit.

    Attributes:
        exhibit: that was examined.
        report: of its evaluation.
        alarms: checks that did not pass.
        found: how the exhibit came off, in words.
        right: whether a broken defence was found out or its true number found, and an honest model
            cleared.
    """

    exhibit: Exhibit
    report: RobustnessReport
    alarms: tuple[str, ...]
    found: str
    right: bool


def examine(exhibit: Exhibit, **settings: Any) -> Ruling:
    """Evaluate an exhibit as anybody would, and compare with what is known about it."""
    report = evaluate_robustness(
        exhibit.build(), *exhibit.data(), epsilon=exhibit.epsilon, **settings
    )
    alarms = tuple(check.id for check in report.checks if check.verdict != "pass")
    failed = any(check.verdict == "fail" for check in report.checks)
    number, reference = report.robust_accuracy.value, exhibit.reference
    known = reference is not None and number <= reference + ROUNDING
    if exhibit.honest:
        right = report.trust == "trusted" and not failed and (reference is None or known)
        return Ruling(
            exhibit=exhibit,
            report=report,
            alarms=alarms,
            found="cleared" if right else "accused",
            right=right,
        )
    words = [
        *(["found out"] if report.trust != "trusted" else []),
        *(["true number"] if known else []),
    ]
    return Ruling(
        exhibit=exhibit,
        report=report,
        alarms=alarms,
        found=", ".join(words) or "missed",
        right=bool(words) and exhibit.alarms <= {*alarms},
    )


class Around(nn.Module):
    """A model around another one that declares no honest view."""

    def __init__(self, inner: nn.Module, amount: float = 1.0) -> None:
        super().__init__()
        self.inner, self.amount = inner, amount


class ScaledLogits(Around):
    """Cross-entropy of logits so far apart vanishes, and its gradient with it."""

    def forward(self, images):
        return self.amount * self.inner(images)


class Softmax(Around):
    """Probabilities of a model that is very sure."""

    def forward(self, images):
        return (self.amount * self.inner(images)).softmax(1)


class SaturatedTanh(Around):
    """Logits squeezed into (-1, 1), where the tangent is flat."""

    def forward(self, images):
        logits = self.inner(images)
        return (self.amount * (logits - logits.mean(1, keepdim=True))).tanh()


class QuantisedInput(Around):
    """Pixels rounded to 16 levels."""

    def forward(self, images):
        return self.inner((images * 15).round() / 15)


class Shattered(Around):
    """A fast wave on the pixels turns the gradient around every 1/200."""

    def forward(self, images):
        return self.inner(images + 0.02 * torch.sin(200 * torch.pi * images))


class SignFlipped(Around):
    """The right answer with the opposite gradient."""

    def forward(self, images):
        return self.inner(2 * images.detach() - images)


class Detached(Around):
    """The right answer without any path from the pixels."""

    def forward(self, images):
        return self.inner(images.detach())


class Decoy(Around):
    """The right answer from a detached path, and a gradient that leads nowhere."""

    def forward(self, images):
        lure = (images - images.detach()).flatten(1)
        wave = torch.sin(torch.arange(lure.shape[1], device=images.device) * 1.7)
        direction = torch.stack([wave.roll(shift) for shift in range(self.classes)], 1)
        return self.inner(images.detach()) + lure @ direction

    classes = 4


class NoNumbers(Around):
    """The right answer with a gradient that is not a number."""

    def forward(self, images):
        zero = images - images.detach()
        return self.inner(images) + (zero.abs().sqrt() * zero.sign()).sum((1, 2, 3))[:, None]


class NoisyLogits(Around):
    """Every answer is drawn anew."""

    def forward(self, images):
        logits = self.inner(images)
        return logits + self.amount * torch.randn_like(logits)


class NoisyInput(Around):
    """Every look at the image is drawn anew."""

    def forward(self, images):
        return self.inner(images + self.amount * torch.randn_like(images))


class Searching(Around):
    """Moves the image uphill in its own favourite class before it answers."""

    def forward(self, images):
        with torch.enable_grad():
            moved = images.detach().requires_grad_(True)
            best = self.inner(moved).amax(1).sum()
            (direction,) = torch.autograd.grad(best, moved)
        return self.inner(images + self.amount * direction.sign())


@cache
def linear_problem() -> tuple[nn.Module, Tensor, Tensor]:
    """Make the problem of four mean images whose robust accuracy is known exactly."""
    generator = np.random.Generator(np.random.PCG64(0))
    means = generator.uniform(0.4, 0.6, (4, 3, 8, 8))
    labels = np.arange(400) % 4
    images = np.clip(means[labels] + 0.35 * generator.standard_normal((400, 3, 8, 8)), 0, 1)
    weights = torch.tensor(means.reshape(4, -1))
    layer = nn.Linear(192, 4)
    layer.weight.data = weights.float()
    layer.bias.data = (-weights.square().sum(1) / 2).float()
    model = nn.Sequential(nn.Flatten(), layer).eval()
    return model, torch.tensor(images).float(), torch.tensor(labels)


def linear_data() -> tuple[Tensor, Tensor]:
    """Give the images of the linear problem."""
    return linear_problem()[1:]


def linear_model() -> nn.Module:
    """Give the model of the linear problem."""
    return linear_problem()[0]


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give handwritten digits: images and labels to train on, then those to test on."""
    data = load_digits()
    images = torch.tensor(data.images[:, None] / 16.0).float()
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1297], order[1297:]
    return images[train], labels[train], images[test], labels[test]


def digits_data() -> tuple[Tensor, Tensor]:
    """Give 160 digits that no model was trained on."""
    return digits()[2][:160], digits()[3][:160]


Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def plain_loss(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Give the cross-entropy of clean images."""
    return functional.cross_entropy(model(images), labels)


def adversarial_loss(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Madry et al., 2018, https://arxiv.org/abs/1706.06083, equation 2.1."""
    start = epsilon * (2 * torch.rand_like(images) - 1)
    worst = climb(
        lambda points: functional.cross_entropy(model(points), labels, reduction="sum"),
        images,
        images + start,
        epsilon,
    )
    return functional.cross_entropy(model(worst), labels)


def trades_loss(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Zhang et al., 2019, https://arxiv.org/abs/1901.08573, equation 5, with beta 6."""
    clean = model(images)
    fixed = clean.detach().log_softmax(1)

    def divergence(points: Tensor, target: Tensor) -> Tensor:
        attacked = model(points).log_softmax(1)
        return functional.kl_div(attacked, target, reduction="none", log_target=True).sum(1)

    worst = climb(
        lambda points: divergence(points, fixed).sum(),
        images,
        images + 0.001 * torch.randn_like(images),
        epsilon,
    )
    robust = divergence(worst, clean.log_softmax(1)).mean()
    return functional.cross_entropy(clean, labels) + 6 * robust


def climb(
    objective: Callable[[Tensor], Tensor], images: Tensor, points: Tensor, epsilon: float
) -> Tensor:
    """Take seven sign steps in ball and box."""
    for _ in range(7):
        points = points.clamp(images - epsilon, images + epsilon).clamp(0, 1)
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(points), points)
        points = points + epsilon / 4 * gradient.sign()
    return points.clamp(images - epsilon, images + epsilon).clamp(0, 1).detach()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the same numbers every time and leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def network() -> nn.Module:
    """Two convolutions and two linear layers for digits of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    )


@cache
def trained(loss: Loss, *, epsilon: float = 0.15, epochs: int = 8) -> nn.Module:
    """Train the network on the digits; seconds, and the same weights every time."""
    images, labels, *_ = digits()
    with seeded(0):
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(64):
                optimiser.zero_grad()
                loss(model, images[rows], labels[rows], epsilon).backward()
                optimiser.step()
    return model.eval().requires_grad_(False)


def _hidden(
    name: str, wrap: Callable[..., nn.Module], *amount: float, alarms: str, **known: Any
) -> Exhibit:
    """Put the linear model behind something; where that changes no decision, 0.44 is true."""
    return Exhibit(
        name=name,
        build=lambda: wrap(linear_model(), *amount).eval(),
        data=linear_data,
        alarms=frozenset(alarms.split()),
        **{"reference": EXACT, **known},
    )


def _hidden_network(
    name: str, wrap: Callable[..., nn.Module], *amount: float, alarms: str
) -> Exhibit:
    return Exhibit(
        name=name,
        build=lambda: wrap(trained(plain_loss), *amount).eval(),
        data=digits_data,
        epsilon=0.1,
        alarms=frozenset(alarms.split()),
    )


GradientConcealment = DEFENCES["gradient_concealment"]

EXHIBITS = (
    _hidden("linear", lambda model: model, honest=True, alarms=""),
    Exhibit(
        name="network",
        build=lambda: trained(plain_loss),
        data=digits_data,
        epsilon=0.1,
        honest=True,
    ),
    Exhibit(
        name="network, PGD training",
        build=lambda: trained(adversarial_loss),
        data=digits_data,
        epsilon=0.15,
        honest=True,
    ),
    Exhibit(
        name="network, TRADES",
        build=lambda: trained(trades_loss),
        data=digits_data,
        epsilon=0.15,
        honest=True,
    ),
    _hidden("logits x 100", ScaledLogits, 100, alarms="G2"),
    _hidden("logits x 1000", ScaledLogits, 1000, alarms="G2"),
    _hidden("softmax of logits x 20", Softmax, 20, alarms="P4"),
    _hidden("softmax of logits x 200", Softmax, 200, alarms="P4 G1 S5"),
    _hidden("saturated tanh", SaturatedTanh, 15, alarms=""),
    _hidden("16 grey levels", QuantisedInput, alarms="P11 G1 G3 G4 S5", reference=0.49),
    _hidden("shattered gradient", Shattered, alarms="G3 G4 G5", reference=0.395),
    _hidden("flipped gradient", SignFlipped, alarms="G3 G4 S5"),
    _hidden("no gradient", Detached, alarms="P6 G6"),
    _hidden("decoy gradient", Decoy, alarms="G3 G4"),
    _hidden("concealed gradient", GradientConcealment, alarms="T1 G3 G4 S5"),
    _hidden("gradient of NaN", NoNumbers, alarms="P7 G1 S5"),
    _hidden("noise on the logits", NoisyLogits, 0.3, alarms="P2", reference=0.428),
    _hidden("noise on the input", NoisyInput, 0.3, alarms="P2", reference=0.435),
    _hidden("search before the answer", Searching, 0.05, alarms="D1", reference=None),
    _hidden_network("network, concealed gradient", GradientConcealment, alarms="T1 G3 G4"),
    _hidden_network("network, saturated tanh", SaturatedTanh, 1, alarms="G1 G4"),
)
