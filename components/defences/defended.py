"""Defended: a model inside a defence, and the view through which it is attacked honestly."""

from torch import nn

from components.tensors import Classifier, Images, Logits


class Defended(nn.Module):
    """What every defence is: a module around another one.

    Args:
        inner: the model the defence is put on.

    Attributes:
        randomised: two forward passes of one batch may differ in evaluation mode; the draws come
            from torch's global generator.
    """

    randomised = False

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def honest_view(self, draws: int) -> Classifier:
        """Give the same decision function with gradients that an attacker can use.

        It is built on ``honest_view(self.inner, draws=draws)``, so that defences can be stacked.

        Args:
            draws: how many draws a randomised defence averages; whoever attacks decides.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to attack it honestly")

    def renew(self) -> None:
        """Follow the wrapped model, whose weights were just loaded; most have nothing to renew."""

    def forward(self, images: Images) -> Logits:
        """Classify pixels in [0, 1]."""
        raise NotImplementedError


def honest_view(model: nn.Module, *, draws: int = 8) -> Classifier:
    """Give the view of a model in which every defence shows usable gradients.

    A model without a method of that name is its own honest view.

    Args:
        model: any module.
        draws: how many draws a randomised defence averages; more make a stronger attack.

    Raises:
        ValueError: there is a defence inside a module that does not say how to reach it.
    """
    view = getattr(model, "honest_view", None)
    if view is None and is_defended(model):
        raise ValueError(
            f"{type(model).__name__} holds a defence, so it needs a method honest_view(draws)"
        )
    return view(draws) if view else model


def is_randomised(model: nn.Module) -> bool:
    """Say whether any defence inside the model draws at random in evaluation mode."""
    return any(isinstance(part, Defended) and part.randomised for part in model.modules())


def is_defended(model: nn.Module) -> bool:
    """Say whether there is any defence inside the model."""
    return any(isinstance(part, Defended) for part in model.modules())
