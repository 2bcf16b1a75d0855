"""Subject: a model under attack; each adversarial image is verified before it counts."""

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.acceleration import search_copy, searched, searched_nearest
from components.attacks.geometry import distance, whole_box
from components.attacks.gradients import check_images, untouched
from components.attacks.losses import margin
from components.choose import choose
from components.config import Choice
from components.evaluation.config import EvaluationConfig
from components.evaluation.outcome import Outcome, Strongest
from components.evaluation.preflight import Preflight, inspect_model
from components.evaluation.report import View
from components.evaluation.state import State
from components.evaluation.suites import at_budget, attack_label
from components.evaluation.views import Counted, InCompany, honest_classifier
from components.randomness import sample_seeds
from components.tensors import Classifier, Images, Labels, PerSample

_ROUNDING = 1e-5  # of a norm, relative: float32 keeps no more
_BATCHES_PER_UNIT = 4  # full batches to the end of an attack, and little lost by a kill
_EXAMPLES = 64  # images on which a copy for searching must agree with its model
_EFFORTS = ("steps", "queries", "restarts", "targets", "draws", "trials", "search_steps")


class InvalidAttack(RuntimeError):
    """Images outside the threat model: an error of the attack, never the model's."""


class Subject:
    """A model under evaluation together with the images it is attacked on.

    Args:
        model: on the images' device.
        images: float32 in [0, 1].
        labels: the true classes.
        settings: the threat model.
        surrogates: other models on which images are crafted too, by name.
        state: keeps finished pieces of work, and knows those of an evaluation that was killed.

    Attributes:
        preflight: what was found before any attack.
        views: what gradients may come from: the model as it is; its honest view, if it wears
            defences, draws at random or gives probabilities; and the surrogates.
        clean_shares: share of draws in which a clean image is classified correctly.
        clean_margins: mean margin of the clean images.
        clean_predictions: the class most draws give.
        advance: told how much work is done, in the unit of `effort` times images.

    Raises:
        ValueError: images, labels or logits are not what an attack can work on.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        settings: EvaluationConfig,
        *,
        surrogates: Mapping[str, nn.Module] | None = None,
        state: State | None = None,
    ) -> None:
        check_images(images, labels)
        if not len(images):
            raise ValueError("there must be at least one image to evaluate a model on, got none")
        self.model, self.images, self.labels = model, images, labels
        self.settings, self._state = settings, state
        self.advance: Callable[[int], None] = _ignore
        self.preflight: Preflight = inspect_model(model, images, labels, settings)
        self.randomised = self.preflight.randomised
        self.views: dict[View, Classifier] = {"as_is": model}
        honest = honest_classifier(model, self.preflight, draws=settings.view_draws)
        if honest is not model:
            self.views["honest"] = honest
        for name, surrogate in (surrogates or {}).items():
            self.views[f"transfer/{name}"] = surrogate
        self._answers: Classifier = model
        if self.preflight.sociable:
            self.views = {name: InCompany(view) for name, view in self.views.items()}
            self._answers = self.views["as_is"]
        self._copies = {name: self._copy(view) for name, view in self.views.items()}
        self._seeds = sample_seeds(settings.seed, len(images), images.device)
        self._started, self._work_seconds, self._work_done = time.monotonic(), 0.0, 0
        self.clean_shares, self.clean_margins, self.clean_predictions = self.judge(images, labels)

    @property
    def right(self) -> Tensor:
        """Per image, whether any draw classifies it correctly without an attack."""
        return self.clean_shares > 0

    @property
    def precision(self) -> str:
        """In which attacks search."""
        return str(next((copy.precision for copy in self._copies.values() if copy), "float32"))

    @property
    def in_sequence(self) -> bool:
        """Whether each attack meets only the survivors of those before it."""
        return self.settings.survivors_only and not self.randomised

    @property
    def whole_box(self) -> float:
        """Radius at which the ball holds every image there is."""
        return whole_box(self.images, self.settings.norm)

    @torch.no_grad()
    def judge(self, images: Images, labels: Labels) -> tuple[PerSample, PerSample, Labels]:
        """Classify with the model as it is: share of right draws, mean margin, commonest class.

        The draws of a randomised model are its own: an attack has not seen them.
        """
        votes, margins, size = [], [], self.settings.batch_size
        with torch.random.fork_rng(), untouched(self.model):
            torch.manual_seed(self.settings.seed)
            for _ in range(self.settings.draws if self.randomised else 1):
                logits = torch.cat([self._answers(b) for b in images.split(size)])
                if not bool(logits.isfinite().all()):
                    raise ValueError("the model's logits are not finite; it cannot be evaluated")
                votes.append(logits.argmax(1))
                margins.append(margin(logits, labels))
        drawn = torch.stack(votes)
        shares = (drawn == labels).float().mean(0)
        return shares, torch.stack(margins).mean(0), drawn.mode(0).values

    def attack(
        self,
        choice: Choice,
        view: View = "as_is",
        *,
        standing: Tensor,
        epsilon: float | None = None,
        deadline: float | None = None,
        remember: Strongest | None = None,
    ) -> Outcome:
        """Attack the images that still stand and judge what comes out.

        Args:
            choice: an entry of ATTACKS with its options.
            view: whose gradients the attack climbs.
            standing: per image, whether to attack it.
            epsilon: radius in pixel units; None takes that of the threat model, infinity lets a
                minimum-norm attack search for the nearest adversarial image.
            deadline: seconds since the start after which no further work is begun; None takes the
                budget of the settings.
            remember: keeps the strongest adversarial images.

        Raises:
            InvalidAttack: the attack left the ball or [0, 1].
        """
        settings = self.complete(choice, epsilon)
        outcome = Outcome(
            name=attack_label(choice),
            view=view,
            settings=settings,
            attacked=torch.zeros_like(standing),
            shares=self.clean_shares.clone(),
            margins=self.clean_margins.clone(),
            norms=torch.zeros_like(self.clean_shares),
        )
        work = effort(settings)
        if deadline is None:
            deadline = self.settings.budget_seconds or math.inf
        for rows in standing.nonzero().squeeze(1).split(self._unit_images):
            if not self._in_time(work * len(rows), deadline):
                outcome.left_out += len(rows)
                continue
            result = self._unit(settings, view, rows, keep_images=remember is not None)
            outcome.add(rows, result)
            self.advance(work * len(rows))
            if remember is not None:
                remember.offer(rows, result)
        self.advance(work * int((~outcome.attacked).sum()))
        return outcome

    @property
    def _unit_images(self) -> int:
        """Images of one piece of work; with a budget, small ones keep to the time."""
        batches = 1 if self.settings.budget_seconds else _BATCHES_PER_UNIT
        return batches * self.settings.batch_size

    def _in_time(self, work: int, deadline: float) -> bool:
        """Say whether work would be done by the deadline, at the pace of the work so far."""
        pace = self._work_seconds / self._work_done if self._work_done else 0.0
        return time.monotonic() - self._started + work * pace <= deadline

    def _unit(
        self, settings: Mapping[str, Any], view: View, rows: Tensor, *, keep_images: bool
    ) -> dict[str, Tensor]:
        """Do one piece of work, or take its result from an evaluation that was killed."""
        key = json.dumps([settings, view, keep_images, self.settings.seed, rows.tolist()])
        known = self._state.load(key) if self._state else None
        if known is None:
            known = self._measure(settings, view, rows, key)
            if not keep_images:
                del known["adversarial"]
            if self._state:
                self._state.save(key, known)
        return {name: value.to(self.images.device) for name, value in known.items()}

    def _measure(
        self, settings: Mapping[str, Any], view: View, rows: Tensor, key: str
    ) -> dict[str, Tensor]:
        started = time.monotonic()
        images, labels = self.images[rows], self.labels[rows]
        counter = [0, 0]
        adversarial = self._craft(settings, view, counter, images, labels, rows, key)
        norms = distance(adversarial - images, settings["norm"])
        _verify(adversarial, norms, settings)
        shares, margins, _ = self.judge(adversarial, labels)
        seconds = time.monotonic() - started
        self._work_seconds += seconds
        self._work_done += effort(settings) * len(rows)
        return {
            "adversarial": adversarial,
            "shares": torch.minimum(shares, self.clean_shares[rows]),
            "margins": margins,
            "norms": norms,
            "asked": torch.tensor(counter),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
        }

    def _craft(
        self,
        settings: Mapping[str, Any],
        view: View,
        counter: list[int],
        images: Images,
        labels: Labels,
        rows: Tensor,
        key: str,
    ) -> Images:
        """Make adversarial images; randomised models draw as this piece of work says."""
        craft = choose(ATTACKS, settings, given=("seed", "batch_size"))
        climbed = self.views[view]
        # Attacks that keep their batches full by themselves get everything at once.
        whole = "batch_size" in inspect.signature(craft).parameters
        options = {"batch_size": self.settings.batch_size} if whole else {}
        size = len(images) if whole else self.settings.batch_size
        copy = self._copies.get(view)
        if copy is not None and not settings.get("confidence"):
            search = searched_nearest if settings["epsilon"] is None else searched
            craft = search(craft, Counted(copy, counter))
        draws = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(untouched(self.model))
            stack.enter_context(untouched(climbed))
            torch.manual_seed(draws)
            parts = [
                craft(
                    Counted(climbed, counter),
                    images[part],
                    labels[part],
                    seed=self._seeds[rows[part]],
                    **options,
                )
                for part in torch.arange(len(images)).split(size)
            ]
        return torch.cat(parts)

    def complete(self, choice: Choice, epsilon: float | None = None) -> dict[str, Any]:
        """Give every parameter of an attack, those included that it leaves to their defaults."""
        settings = at_budget(
            choice,
            norm=self.settings.norm,
            epsilon=self.settings.epsilon if epsilon is None else epsilon,
            num_pixels=self.images[0].numel(),
        )
        if settings["epsilon"] == math.inf:
            settings["epsilon"] = None  # how a minimum-norm attack is told that any radius will do
        options = inspect.signature(choose(ATTACKS, settings)).parameters
        if "keep" in options and not self.randomised and self.preflight.separate:
            settings.setdefault("keep", "first")  # an image that has fallen need fall no further
        defaults = {
            name: option.default
            for name, option in options.items()
            if option.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("seed", "batch_size")
        }
        return {**choice, **defaults, **settings}

    def _copy(self, view: Classifier) -> nn.Module | None:
        """Make a copy of a view that is faster to search on, where there can be one."""
        if self.randomised or not isinstance(view, nn.Module):
            return None
        precision = self.settings.precision
        return search_copy(view, self.images[:_EXAMPLES], precision=precision)


def _ignore(work: int) -> None:
    pass


def effort(settings: Mapping[str, Any]) -> int:
    """Estimate how many times an attack asks the model about an image, for progress and budget."""
    counts = (settings.get(name) or 1 for name in _EFFORTS)
    return math.prod(int(count) for count in counts)


def _verify(adversarial: Images, norms: PerSample, settings: Mapping[str, Any]) -> None:
    """Refuse images outside the ball or [0, 1], and pixels that are no numbers."""
    inside = bool(((adversarial >= 0) & (adversarial <= 1)).all())
    epsilon = math.inf if settings["epsilon"] is None else settings["epsilon"]
    if not (inside and bool((norms <= epsilon * (1 + _ROUNDING) + 1e-6).all())):
        raise InvalidAttack(
            f"{settings['name']} left its threat model: {settings['norm']} {epsilon:g} allowed, "
            f"{float(norms.max()):g} found, pixels in "
            f"[{float(adversarial.min()):g}, {float(adversarial.max()):g}]"
        )
