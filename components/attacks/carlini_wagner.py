"""Carlini and Wagner's attack: Adam looks for the smallest L2 perturbation that fools."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from components.attacks.geometry import brought_back, radius
from components.attacks.gradients import check_images, input_gradient, untouched
from components.attacks.losses import margin
from components.attacks.shortening import shortened
from components.tensors import Classifier, Images, Labels, PerSample

_SQUEEZE = 0.999999  # of the authors' code: keeps pixels off the walls, where no gradient passes
_DECAYS = 0.9, 0.999  # Adam's
_TINY = 2.5e-9  # Adam's 1e-8, for a quarter of the gradient
_STALLED = 0.9999  # of the authors' code: a search must come below this share of its last look
_SHORTEST_WAIT = 10  # steps between two looks; within fewer, one image's loss just swings


@torch.no_grad()
def carlini_wagner(
    model: Classifier,
    images: Images,
    labels: Labels,
    *,
    epsilon: float | Tensor | None,
    norm: Literal["l2"] = "l2",
    steps: int = 10_000,
    search_steps: int = 9,
    step_size: float = 0.01,
    constant: float = 1e-3,
    confidence: float = 0.0,
    abort_early: bool = True,
    draws: int = 1,
    seed: int | Tensor = 0,  # noqa: ARG001  every attack takes one; this one draws nothing
) -> Images:
    """Minimise squared distance plus a constant times what is missing to being misclassified.

    Carlini and Wagner, 2017, https://arxiv.org/abs/1608.04644, section V, with their f_6 and their
    change of variable, which keeps pixels in the box. Differs from the authors' code: the next
    constant goes on from where the last one ended, so that no step is lost; an image whose search
    stalls goes on to its next constant by itself, whatever the others do, and once it fools, its
    lowest loss since the last look counts; and the perturbation found is shortened as far as it
    still fools, at the price of nine forward passes.

    Args:
        model: attacked in evaluation mode and left as it was.
        images: float32 in [0, 1].
        labels: the true classes.
        epsilon: radius in pixel units, a number or one per image; an adversarial image further
            away is shrunk onto the ball, and may not fool any more. None for no limit.
        norm: ``l2``.
        steps: of Adam per constant at most, each a forward and a backward pass.
        search_steps: constants tried per image, in a binary search for the smallest that fools.
        step_size: Adam's learning rate, in units of the inverse hyperbolic tangent of a pixel.
        constant: the first one tried; ten times the last is next until one fools.
        confidence: margin that counts as misclassified (kappa); above 0 for images that are to
            fool other models too.
        abort_early: give up a constant whose loss did not fall over a tenth of the steps.
        draws: forward passes that are averaged, for models that draw at random.
        seed: without effect.

    Returns:
        Adversarial images in the ball and in [0, 1]; clean ones where none was found, and where
        the clean image is misclassified already.

    Raises:
        ValueError: images, labels or an option are not as described.
    """
    check_images(images, labels)
    if norm != "l2":
        raise ValueError(f"norm must be 'l2', got {norm!r}")
    if steps < 1 or search_steps < 1 or draws < 1:
        raise ValueError(
            "steps, search_steps and draws must be at least 1, "
            f"got {steps}, {search_steps} and {draws}"
        )
    if not (step_size > 0 and constant > 0 and confidence >= 0):
        raise ValueError(
            "step_size and constant must be above 0 and confidence at least 0, "
            f"got {step_size}, {constant} and {confidence}"
        )
    radius(0.0 if epsilon is None else epsilon, images, norm)
    if not len(images):
        return images.clone()
    adversarial = images.clone()
    with untouched(model):
        leads, gradient, _ = input_gradient(
            model, images, partial(margin, labels=labels), draws=draws
        )
        rows = (leads <= 0).nonzero().squeeze(1)
        search = _Search(images[rows], leads[rows], gradient[rows], constant, step_size, confidence)
        wait = max(_SHORTEST_WAIT, steps // 10) if abort_early else steps
        while len(rows):
            points = search.points()
            leads, gradient, _ = input_gradient(
                model, points, partial(margin, labels=labels[rows]), draws=draws
            )
            search.advance(points, leads, gradient)
            if search.due(steps, wait):
                done = search.turn(steps, wait, search_steps)
                adversarial[rows[done]] = search.nearest[done]
                rows = rows[~done]
                search.drop(done)
        adversarial = shortened(
            model, images, adversarial, labels, confidence=confidence, draws=draws
        )
    return brought_back(adversarial, images, epsilon, norm)


class _Search:
    """Where the search of each image stands; each goes through its constants at its own pace.

    The variable is twice the paper's, so that a pixel is its sigmoid, and the loss half of it.
    Adam takes the same steps.
    """

    def __init__(
        self,
        images: Images,
        leads: PerSample,
        gradient: Images,
        constant: float,
        step_size: float,
        confidence: float,
    ) -> None:
        self._step_size, self._confidence = step_size, confidence
        start = 2 * torch.atanh((2 * images - 1) * _SQUEEZE)
        self._origin = torch.sigmoid(start)
        self.nearest, self._size = images.clone(), torch.full_like(leads, torch.inf)
        self._constant = torch.full_like(leads, constant)
        self._below, self._above = torch.zeros_like(leads), torch.full_like(leads, torch.inf)
        self._fooled, self._tried = torch.zeros_like(leads, dtype=torch.bool), leads.long() * 0
        self._lowest = torch.full_like(leads, torch.inf)
        self._loss = self._last_loss = constant * (confidence - leads).clamp_min(0)
        # The first step: no perturbation yet, and the gradient at the clean image is known.
        slope = _through_sigmoid(-constant / 2 * gradient, self._origin)
        self._mean = (1 - _DECAYS[0]) * slope
        self._square = (1 - _DECAYS[1]) * slope.square()
        self._variable = start - 2 * step_size * slope / (slope.abs() + _TINY)
        self._age = 1
        self._taken = torch.zeros_like(leads)
        # Known to the CPU too, which need not wait for the accelerator before every step.
        self._taken_here = torch.zeros(len(leads))

    def points(self) -> Images:
        return torch.sigmoid(self._variable)

    def advance(self, points: Images, leads: PerSample, gradient: Images) -> None:
        """Keep points that fool from nearer than before, and take a step of Adam."""
        perturbation = points - self._origin
        flat = perturbation.flatten(1)
        size = torch.linalg.vecdot(flat, flat)
        fooled = leads > self._confidence
        nearer = fooled & (size < self._size)
        self.nearest = torch.where(nearer[:, None, None, None], points, self.nearest)
        self._size = torch.where(nearer, size, self._size)
        self._fooled |= fooled
        missing = (self._confidence - leads).clamp_min(0)
        self._loss = size + self._constant * missing
        self._lowest = torch.minimum(self._lowest, self._loss)
        weights = torch.where(missing > 0, -self._constant / 2, 0.0)
        slope = torch.addcmul(perturbation, gradient, weights[:, None, None, None])
        slope = _through_sigmoid(slope, points)
        self._mean.lerp_(slope, 1 - _DECAYS[0])
        self._square.mul_(_DECAYS[1]).addcmul_(slope, slope, value=1 - _DECAYS[1])
        self._age += 1
        self._taken += 1
        self._taken_here += 1
        stride = 2 * self._step_size / (1 - _DECAYS[0] ** self._age)
        width = self._square.sqrt().mul_((1 - _DECAYS[1] ** self._age) ** -0.5).add_(_TINY)
        self._variable.addcdiv_(self._mean, width, value=-stride)

    def due(self, steps: int, wait: int) -> bool:
        """Say whether any image has come to a look at its loss or to the end of its steps."""
        taken = self._taken_here
        return bool(((taken % wait == 0) | (taken >= steps)).any())

    def turn(self, steps: int, wait: int, search_steps: int) -> Tensor:
        """Go on to the next constant where the steps are used up or in vain.

        Returns:
            Which images are done with all constants.
        """
        looked = self._taken % wait == 0
        # Near the boundary the loss swings, and where it happens to be tells little.
        loss = torch.where(self._fooled, self._lowest, self._loss)
        ended = (self._taken >= steps) | (looked & (loss > _STALLED * self._last_loss))
        self._last_loss = torch.where(looked, loss, self._last_loss)
        self._lowest.masked_fill_(looked, torch.inf)
        constant = self._constant
        self._above = torch.where(ended & self._fooled, constant, self._above)
        self._below = torch.where(ended & ~self._fooled, constant, self._below)
        middle = (self._below + self._above) / 2
        following = torch.where(self._above.isinf(), 10 * constant, middle)
        self._tried += ended
        if search_steps >= 10:  # as the authors' code: once more with the smallest that fooled
            last = (self._tried == search_steps - 1) & self._above.isfinite()
            following = torch.where(last, self._above, following)
        self._constant = torch.where(ended, following, constant)
        self._lowest.masked_fill_(ended, torch.inf)
        self._last_loss.masked_fill_(ended, torch.inf)
        self._fooled &= ~ended
        self._taken.masked_fill_(ended, 0)
        self._taken_here.masked_fill_(ended.cpu(), 0)
        return self._tried >= search_steps

    def drop(self, done: Tensor) -> None:
        """Forget images."""
        if not bool(done.any()):
            return
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[~done.to(value.device)])


def _through_sigmoid(slope: Images, points: Images) -> Images:
    """Turn a gradient at the pixels into that at the variable whose sigmoid they are."""
    return slope * torch.addcmul(points, points, points, value=-1)
