"""PixelBudget: a large epsilon where a decision rests on the pixel, a smaller one elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from components.config import unknown
from components.defences.random_resize_pad import moving_pads
from components.objectives.crafting import View
from components.objectives.importance import (
    METHODS,
    centred_maps,
    chosen_classes,
    normalised,
    random_maps,
    resized,
)
from components.objectives.masks import zscore
from components.objectives.watching import look
from components.tensors import Images, Labels, Logits

_KNOWING_NOTHING = ("uniform", "random", "centre")
_ROUNDING = 1e-6


class Budget(NamedTuple):
    """What a batch may be changed by.

    Attributes:
        epsilon: of every pixel, broadcastable to the images.
        constant: which images had a constant map, so that epsilon is large everywhere.
        logits: of the clean images through the view, if it was asked.
    """

    epsilon: Tensor
    constant: Tensor
    logits: Logits | None


@dataclass(frozen=True, kw_only=True)
class PixelBudget:
    """Zhang et al., 2024, https://arxiv.org/abs/2406.00685: epsilon follows importance.

    The published code makes a mask per batch, of other images than those it is used on, by a rule
    that leaves out what matters most. Here a mask is made of the very images that are attacked,
    with the weights as they are, by a rule that is monotone; `control` and `rule` bring the rest
    back.

    Attributes:
        epsilon: radius where it matters, in pixel units.
        low_epsilon: radius elsewhere.
        method: an entry of METHODS; or ``uniform``, where everything matters, ``random`` and
            ``centre``, which do not ask the model.
        layer: module whose output to look at; None finds the last features with several places.
        of: whose map: the ``predicted`` class, the ``label``, or the ``runner_up``.
        resize: how maps are enlarged: ``bilinear``, ``bicubic``, or ``overshooting``, the bicubic
            of the published code.
        rule: an entry of RULES, from importance to the share of the way from low to large.
        control: an entry of CONTROLS, which puts another mask in the place of the mask.
    """

    epsilon: float
    low_epsilon: float
    method: str = "gradcam"
    layer: str | None = None
    of: Literal["predicted", "label", "runner_up"] = "predicted"
    resize: Literal["bilinear", "bicubic", "overshooting"] = "bilinear"
    rule: Callable[[Tensor], Tensor] = zscore
    control: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low_epsilon <= self.epsilon:
            raise ValueError(
                "low_epsilon must be at least 0 and at most epsilon, "
                f"got {self.low_epsilon} and {self.epsilon}"
            )
        if self.method not in (*METHODS, *_KNOWING_NOTHING):
            raise ValueError(unknown("method", self.method, [*METHODS, *_KNOWING_NOTHING]))

    def __call__(self, view: View, images: Images, labels: Labels, *, seed: int | Tensor) -> Budget:
        """Give the budget of a batch, from one forward pass.

        Args:
            view: frozen and in evaluation mode.
            images: at least one.
            labels: the true classes.
            seed: of what is random, which is drawn for the batch as a whole: one per image counts
                by its first.
        """
        seed = int(seed[0]) if isinstance(seed, Tensor) else seed
        maps, logits = self._maps(view, images, labels, seed)
        maps, constant = normalised(maps)
        weights = self.rule(resized(maps, (images.shape[2], images.shape[3]), self.resize))
        # A map that says nothing takes nothing away.
        weights = torch.where(constant.view(-1, 1, 1, 1), 1.0, weights)
        if self.control is not None:
            weights = self.control(weights, seed=seed)
        low, high = images.new_tensor(self.low_epsilon), images.new_tensor(self.epsilon)
        return Budget(torch.lerp(low, high, weights), constant, logits)

    def spend(
        self,
        attack: Callable[..., Images],
        view: View,
        images: Images,
        labels: Labels,
        *,
        seed: int | Tensor,
    ) -> tuple[Images, dict[str, Tensor]]:
        """Attack images within their budget, and give the figures of that as well."""
        allowed = self(view, images, labels, seed=seed)
        crafted = attack(view, images, labels, epsilon=allowed.epsilon, seed=seed)
        return crafted, self.figures(allowed, images, crafted)

    def _maps(
        self, view: View, images: Images, labels: Labels, seed: int
    ) -> tuple[Tensor, Logits | None]:
        size = images.shape[2], images.shape[3]
        if self.method == "uniform":
            return images.new_ones(len(images), 1, 1, 1), None
        if self.method == "random":
            generator = torch.Generator(images.device).manual_seed(seed)
            return random_maps(labels, size, generator), None
        if self.method == "centre":
            return centred_maps(labels, size), None
        seen = look(view, images, layer=self.layer)
        classes = chosen_classes(seen, labels, self.of)
        maps = METHODS[self.method](seen.features, seen.slopes(classes))
        # `look` holds still what moves pixels, so these logits are not the view's.
        return maps, None if moving_pads(view.network) else seen.logits

    def figures(self, budget: Budget, images: Images, attacked: Images) -> dict[str, Tensor]:
        """Give what a curve should show of a batch, as means over it.

        Returns:
            ``mask_density``, the share of the way from low to large; ``mean_epsilon``;
            ``constant_maps``, the share of images; ``saturated_important`` and ``saturated_rest``,
            the shares of pixels at the end of their epsilon, 0 where there are none.
        """
        epsilon = budget.epsilon.expand_as(images)
        moved = (attacked - images).abs()
        assert bool((moved <= epsilon + _ROUNDING).all()), "an attack left its budget"
        at_end = moved >= epsilon - _ROUNDING
        important = epsilon == epsilon.new_tensor(self.epsilon)
        mean = epsilon.mean()
        span = self.epsilon - self.low_epsilon
        return {
            "mask_density": (mean - self.low_epsilon) / span if span else torch.ones_like(mean),
            "mean_epsilon": mean,
            "constant_maps": budget.constant.float().mean(),
            "saturated_important": _share(at_end, important),
            "saturated_rest": _share(at_end, ~important),
        }


def _share(truths: Tensor, among: Tensor) -> Tensor:
    return (truths & among).sum() / among.sum().clamp_min(1)
