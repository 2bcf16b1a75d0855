"""What can be set when a data set is prepared."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, OneOf, Range


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Where images come from, what becomes of them and where they go.

    Attributes:
        source: an entry of `components.data.sources.SOURCES` with its options.
        target: where the shards live: a folder or ``s3://bucket/prefix``, in which they lie below
            their fingerprint and are shared by every run; empty puts them into the step's output.
        image_size: height and width of the prepared images in pixels; 0 keeps the source's.
        resize: ``squash`` changes the image's proportions; ``crop`` brings its shorter side to
            `shorter_side` and cuts out the middle.
        shorter_side: in pixels, for ``crop``; 0 is 8/7 of `image_size`, such as 256 for 224.
        keep_larger: leave training images uncut after that, for random crops while training.
        min_side: images with a shorter side than this are put aside.
        encoding: how images lie in the shards: ``raw`` pixels, ``png``, or ``jpeg`` (the source's
            own JPEG where nothing had to change, PNG elsewhere); ``auto`` is raw up to 64 pixels
            a side and jpeg beyond.
        keep_repeated: leave images that come more than once where they are, as published.
        max_broken: share of the source's images that may be unusable before the step fails;
            repeated images do not count.
        validation_share: share of the training images cut off for validation, per class.
        seed: of the split.
        shard_images: how many images a shard holds at most.
    """

    source: Choice
    target: str = ""
    image_size: Annotated[int, Range(at_least=0, at_most=4096)] = 0
    resize: Annotated[str, OneOf("squash", "crop")] = "squash"
    shorter_side: Annotated[int, Range(at_least=0, at_most=8192)] = 0
    keep_larger: bool = False
    min_side: Annotated[int, Range(at_least=1)] = 1
    encoding: Annotated[str, OneOf("auto", "raw", "png", "jpeg")] = "auto"
    keep_repeated: bool = False
    max_broken: Annotated[float, Range(at_least=0, at_most=1)] = 0.01
    validation_share: Annotated[float, Range(above=0, below=1)] = 0.1
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0
    shard_images: Annotated[int, Range(at_least=1)] = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize == "crop":
            if not self.image_size:
                raise ValueError('resize "crop" needs an image_size above 0')
            if 0 < self.shorter_side < self.image_size:
                raise ValueError(
                    f"shorter_side must be at least image_size {self.image_size}, "
                    f"got {self.shorter_side}"
                )
        elif self.keep_larger or self.shorter_side:
            raise ValueError('keep_larger and shorter_side need resize "crop"')
