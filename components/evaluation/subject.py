"""Attacks through every view of a model, each adversarial image verified before it counts."""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.geometry import distance
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.attacks.randomness import sample_seeds
from components.choose import choose
from components.config import Choice
from components.defences.defended import honest_view, is_defended, is_randomised
from components.evaluation.config import EvaluationConfig, attack_label
from components.evaluation.report import View
from components.tensors import Classifier, Images, Labels, PerSample

_ROUNDING = 1e-5  # of a norm, relative: float32 keeps no more


class InvalidAttack(RuntimeError):
    """Images outside the threat model: an error of the attack, never the model's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What one attack left of a model.

    Attributes:
        name: of the attack with its options, such as ``pgd-20-margin``.
        view: whose gradients it climbed.
        settings: every parameter of the attack.
        adversarial: images in the order of the clean ones.
        shares: share of draws in which the model was right, never above the clean share; 0 or 1
            unless the model is randomised.
        margins: how far the model was wrong, mean over draws.
        seconds: wall time.
    """

    name: str
    view: View
    settings: Mapping[str, Any]
    adversarial: Images
    shares: PerSample
    margins: PerSample
    seconds: float


class Subject:
    """A model under evaluation together with the images it is attacked on.

    Args:
        model: on the images' device.
        images: float32 in [0, 1].
        labels: the true classes.
        settings: the threat model.
        advance: told how many images an attack is done with, for the progress bar.

    Attributes:
        views: what gradients may come from: the model as it is and, if it wears defences, its
            honest view.
        clean_shares: share of draws in which a clean image is classified correctly.
        clean_margins: mean margin of the clean images.
        clean_predictions: the class most draws give.

    Raises:
        ValueError: images, labels or logits are not what an attack can work on.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        settings: EvaluationConfig,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        check_images(images, labels)
        self.model, self.images, self.labels = model, images, labels
        self.settings, self.advance = settings, advance
        self.randomised = is_randomised(model)
        self.views: dict[View, Classifier] = {"as_is": model}
        if is_defended(model):
            self.views["honest"] = honest_view(model, draws=settings.view_draws)
        self._seeds = sample_seeds(settings.seed, len(images), images.device)
        self.clean_shares, self.clean_margins, self.clean_predictions = self.judge(images)

    @torch.no_grad()
    def judge(self, images: Images) -> tuple[PerSample, PerSample, Labels]:
        """Classify with the model as it is: share of right draws, mean margin, commonest class.

        The draws of a randomised model are its own: an attack has not seen them.
        """
        votes, margins = [], []
        with torch.random.fork_rng(), untouched(self.model):
            torch.manual_seed(self.settings.seed)
            for _ in range(self.settings.draws if self.randomised else 1):
                logits = torch.cat([self.model(b) for b in images.split(self.settings.batch_size)])
                if not bool(logits.isfinite().all()):
                    raise ValueError("the model's logits are not finite; it cannot be evaluated")
                votes.append(logits.argmax(1))
                margins.append(margin(logits, self.labels))
        drawn = torch.stack(votes)
        shares = (drawn == self.labels).float().mean(0)
        return shares, torch.stack(margins).mean(0), drawn.mode(0).values

    def attack(self, choice: Choice, view: View, *, epsilon: float, standing: Tensor) -> Outcome:
        """Attack the images that still stand and judge what comes out.

        Args:
            choice: an entry of ATTACKS with its options.
            view: whose gradients the attack climbs.
            epsilon: radius in pixel units.
            standing: per image, whether to attack it; the others stay clean and count as fallen.

        Raises:
            InvalidAttack: the attack left the ball or [0, 1].
        """
        started = time.monotonic()
        settings = self._complete(choice, epsilon)
        craft = choose(ATTACKS, settings, given=("seed",))
        adversarial = self.images.clone()
        with torch.random.fork_rng(), untouched(self.model):
            torch.manual_seed(self.settings.seed + 1)  # an attack draws apart from the judge
            for rows in standing.nonzero().squeeze(1).split(self.settings.batch_size):
                adversarial[rows] = craft(
                    self.views[view], self.images[rows], self.labels[rows], seed=self._seeds[rows]
                )
                self.advance(len(rows))
        self.advance(int((~standing).sum()))
        self._verify(adversarial, epsilon, settings["name"])
        shares, margins, _ = self.judge(adversarial)
        return Outcome(
            name=attack_label(choice),
            view=view,
            settings=settings,
            adversarial=adversarial,
            shares=torch.minimum(shares, self.clean_shares) * standing,
            margins=margins,
            seconds=time.monotonic() - started,
        )

    def _complete(self, choice: Choice, epsilon: float) -> dict[str, Any]:
        settings = {**choice, "epsilon": epsilon, "norm": self.settings.norm}
        options = inspect.signature(choose(ATTACKS, settings)).parameters
        if "keep" in options and not self.randomised:
            settings.setdefault("keep", "first")  # an image that has fallen need fall no further
        return settings

    def _verify(self, adversarial: Images, epsilon: float, name: str) -> None:
        size = distance(adversarial - self.images, self.settings.norm)
        inside = (adversarial >= 0) & (adversarial <= 1)
        if not (bool(inside.all()) and bool((size <= epsilon * (1 + _ROUNDING) + 1e-6).all())):
            raise InvalidAttack(
                f"{name} left its threat model: {self.settings.norm} {epsilon:g} allowed, "
                f"{float(size.max()):g} found, pixels in "
                f"[{float(adversarial.min()):g}, {float(adversarial.max()):g}]"
            )
