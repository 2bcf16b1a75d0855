"""What can be set when a data set is prepared."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, Range


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Where images come from and how they are split.

    Attributes:
        source: an entry of `components.data.sources.SOURCES` with its options.
        image_size: height and width of the prepared images in pixels; 0 keeps the source's.
        validation_share: share of the training images cut off for validation, per class.
        seed: of the split.
        shard_images: how many images a shard holds at most.
    """

    source: Choice
    image_size: Annotated[int, Range(at_least=0, at_most=4096)] = 0
    validation_share: Annotated[float, Range(above=0, below=1)] = 0.1
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0
    shard_images: Annotated[int, Range(at_least=1)] = 4096
