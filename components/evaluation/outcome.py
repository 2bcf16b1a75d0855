"""Outcome: what one attack left of a model; Strongest: the worst image of every attack so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from components.evaluation.report import View
from components.tensors import Images, PerSample


@dataclass(eq=False, kw_only=True)
class Outcome:
    """What one attack left of a model.

    Attributes:
        name: of the attack with its options, such as ``pgd-20-margin``.
        view: whose gradients it climbed.
        settings: every parameter of the attack, norm and radius included.
        attacked: images it was tried on.
        shares: share of draws in which the model was right, never above the clean share; 0 or 1
            unless the model is randomised. Images that were not attacked keep their clean share.
        margins: how far the model was wrong, mean over draws.
        norms: size of the perturbations; 0 where not attacked.
        left_out: how many images the budget of time left unattacked.
        forwards: images passed forward through the view.
        gradients: of these, images whose gradient was taken.
        seconds: wall time.
    """

    name: str
    view: View
    settings: Mapping[str, Any]
    attacked: Tensor
    shares: PerSample
    margins: PerSample
    norms: PerSample
    left_out: int = 0
    forwards: int = 0
    gradients: int = 0
    seconds: float = 0.0

    @property
    def fooled(self) -> Tensor:
        """Per image, whether it was attacked and most draws are wrong."""
        return self.attacked & (self.shares <= 0.5)

    def add(self, rows: Tensor, result: Mapping[str, Tensor]) -> None:
        """Enter what was found about some of the images."""
        self.attacked[rows] = True
        self.shares[rows], self.margins[rows] = result["shares"], result["margins"]
        self.norms[rows] = result["norms"]
        forwards, gradients = result["asked"].tolist()
        self.forwards, self.gradients = self.forwards + forwards, self.gradients + gradients
        self.seconds += float(result["seconds"])


class Strongest:
    """The adversarial image of each clean one that fools most draws, by the largest margin.

    Args:
        images: the clean ones.
        shares: of draws in which the model is right about them.
        margins: how far it is wrong about them.

    Attributes:
        images: adversarial; the clean ones where no attack was tried.
        shares: of draws in which the model is right.
        margins: how far it is wrong.
    """

    def __init__(self, images: Images, shares: PerSample, margins: PerSample) -> None:
        self.images, self.shares, self.margins = images.clone(), shares.clone(), margins.clone()

    def offer(self, rows: Tensor, result: Mapping[str, Tensor]) -> None:
        """Take over what is stronger."""
        shares, margins = result["shares"], result["margins"]
        better = (shares < self.shares[rows]) | (
            (shares == self.shares[rows]) & (margins > self.margins[rows])
        )
        chosen = rows[better]
        self.images[chosen] = result["adversarial"][better]
        self.shares[chosen], self.margins[chosen] = shares[better], margins[better]
