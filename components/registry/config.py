"""What can be set when versions are compared and promoted."""

import re
from dataclasses import dataclass
from typing import Annotated

from components.config import Config, Range


@dataclass(frozen=True, kw_only=True)
class PromotionConfig(Config):
    """When a challenger may replace the champion.

    Attributes:
        model_name: the registered model's name.
        maximum_clean_loss: how much clean accuracy may fall, as a fraction.
        significance: the paired test's p-value must be below this.
    """

    model_name: str
    maximum_clean_loss: Annotated[float, Range(at_least=0, at_most=1)] = 0.01
    significance: Annotated[float, Range(above=0, below=1)] = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.model_name):
            raise ValueError(
                f"model_name must be letters, digits, - and _ alone, got {self.model_name!r}"
            )
