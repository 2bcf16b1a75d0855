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

    def honest_view(self, inner: Classifier) -> Classifier:
        """Give the same decision function with gradients that an attacker can use.

        Args:
            inner: the honest view of the inner model.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to attack it honestly")

    def forward(self, images: Images) -> Logits:
        """Classify pixels in [0, 1]."""
        raise NotImplementedError


def honest_view(model: nn.Module) -> Classifier:
    """Give the view of a model in which every defence shows usable gradients; or the model itself.

    Args:
        model: a defended module, or anything else, which is its own honest view.
    """
    if isinstance(model, Defended):
        return model.honest_view(honest_view(model.inner))
    return model


def is_randomised(model: nn.Module) -> bool:
    """Say whether any defence inside the model draws at random in evaluation mode."""
    return any(isinstance(part, Defended) and part.randomised for part in model.modules())
