"""Views: what an attacker may climb instead of the model, and how often he asked."""

from collections.abc import Callable

import torch
from torch import nn

from components.defences.defended import honest_view, is_defended, is_randomised
from components.evaluation.preflight import Preflight
from components.tensors import Classifier, Images, Logits

_SMALLEST = 1e-38  # of a probability whose logarithm float32 can hold


def honest_classifier(model: nn.Module, found: Preflight, *, draws: int) -> Classifier:
    """Give the same decision function with usable gradients; the model itself if it has them.

    Declared defences say how to look behind them. Beyond these, probabilities become their
    logarithms, which are logits, and what draws at random is averaged over draws.

    Args:
        model: any module.
        found: what preflight found out about it.
        draws: that a randomised model averages.
    """
    view: Classifier = honest_view(model, draws=draws) if is_defended(model) else model
    if found.probabilities:
        view = _logarithms(view)
    if found.randomised and not is_randomised(model):
        view = _expectation(view, draws)
    return view


class InCompany(nn.Module):
    """A model that takes no image alone; a lone one comes twice, and one answer is kept.

    Args:
        view: answers; becomes part of this if it is a module.
    """

    def __init__(self, view: Classifier) -> None:
        super().__init__()
        self.view = view
        self.training = getattr(view, "training", False)

    def forward(self, images: Images) -> Logits:
        """Classify."""
        if len(images) == 1:
            return self.view(torch.cat([images, images]))[:1]
        return self.view(images)


class Counted:
    """A classifier that counts what it is asked.

    Args:
        classifier: answers.
        counter: shared with another one, if their questions are counted together.

    Attributes:
        counter: images passed forward, and those of them whose gradient was wanted.
    """

    def __init__(self, classifier: Classifier, counter: list[int] | None = None) -> None:
        self.classifier = classifier
        self.counter = [0, 0] if counter is None else counter

    def __call__(self, images: Images) -> Logits:
        """Classify."""
        self.counter[0] += len(images)
        self.counter[1] += len(images) * torch.is_grad_enabled()
        return self.classifier(images)


def _logarithms(view: Classifier) -> Callable[[Images], Logits]:
    return lambda images: view(images).clamp_min(_SMALLEST).log()


def _expectation(view: Classifier, draws: int) -> Callable[[Images], Logits]:
    """Average log-probabilities over draws: Athalye et al., 2018, arXiv 1707.07397."""

    def expected(images: Images) -> Logits:
        return torch.stack([view(images).log_softmax(1) for _ in range(draws)]).mean(0)

    return expected
