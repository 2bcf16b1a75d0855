"""What can be set when versions are compared, promoted, fetched and trained again."""

import re
from dataclasses import dataclass
from typing import Annotated

from components.config import Config, OneOf, Range, unknown
from components.evaluation.suites import SUITES


@dataclass(frozen=True, kw_only=True)
class PromotionConfig(Config):
    """When a challenger may replace the champion.

    Attributes:
        model_name: the registered model's name.
        maximum_clean_loss: how much clean accuracy may fall, as a fraction.
        significance: the paired test's p-value must be below this.
        minimum_gain: robust accuracy must rise by at least this fraction; 0 asks only for more
            than noise.
        required_trust: ``doubtful`` lets doubtful numbers pass as well; masked ones never do.
        required_suites: suites of attacks, all of which the challenger must have met.
        maximum_latency_seconds: one image may take no longer; None sets no limit.
    """

    model_name: str
    maximum_clean_loss: Annotated[float, Range(at_least=0, at_most=1)] = 0.01
    significance: Annotated[float, Range(above=0, below=1)] = 0.05
    minimum_gain: Annotated[float, Range(at_least=0, below=1)] = 0.0
    required_trust: Annotated[str, OneOf("trusted", "doubtful")] = "trusted"
    required_suites: tuple[str, ...] = ()
    maximum_latency_seconds: Annotated[float | None, Range(above=0)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.model_name):
            raise ValueError(
                f"model_name must be letters, digits, - and _ alone, got {self.model_name!r}"
            )
        for suite in self.required_suites:
            if suite not in SUITES:
                raise ValueError(unknown("suite", suite, SUITES))


@dataclass(frozen=True, kw_only=True)
class FetchConfig(Config):
    """Which model is fetched.

    Attributes:
        model: ``models:/name@alias``, ``models:/name/version``, or a checkpoint folder that the
            step can read.
    """

    model: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model or (self.model.startswith("models:") and not self.registered):
            raise ValueError(
                "model must be models:/name@alias, models:/name/version or a checkpoint folder, "
                f"got {self.model!r}"
            )

    @property
    def registered(self) -> tuple[str, str] | None:
        """Name and version or alias of a registered model; None for a folder."""
        found = re.fullmatch(r"models:/([A-Za-z0-9_-]+)[@/]([A-Za-z0-9_.-]+)", self.model)
        return (found[1], found[2]) if found else None


@dataclass(frozen=True, kw_only=True)
class RenewalConfig(Config):
    """How a registered model is trained again.

    Attributes:
        start: from the ``champion``'s weights, where they fit the training's backbone, or from
            fresh ones, ``scratch``.
    """

    start: Annotated[str, OneOf("champion", "scratch")] = "champion"
