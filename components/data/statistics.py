"""Shape, mean and deviation of images that come one at a time, from exact integer sums."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Sums(NamedTuple):
    """One image in numbers.

    Attributes:
        values: sum of its values 0..255, per channel.
        squares: sum of their squares, per channel.
    """

    values: tuple[int, ...]
    squares: tuple[int, ...]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> "Sums":
        """Add up an image of height x width x channels."""
        flat = pixels.reshape(-1, pixels.shape[2]).astype(np.int64)
        return cls(tuple(flat.sum(0).tolist()), tuple((flat * flat).sum(0).tolist()))


class Statistics:
    """One shape for all images; mean and deviation of those that count.

    Integer sums make the figures independent of the images' order and of the machine.

    Attributes:
        image_shape: channels, height, width; empty before the first image.
    """

    def __init__(self) -> None:
        self.image_shape: tuple[int, ...] = ()
        self._pixels = 0
        # Python's integers, since the squares of a large data set outgrow 64 bits.
        self._values: list[int] = []
        self._squares: list[int] = []

    def check_shape(self, shape: tuple[int, int, int], origin: str) -> None:
        """Hold an image against those before it.

        Args:
            shape: channels, height, width.
            origin: what an error calls the image.

        Raises:
            ValueError: its shape is another one.
        """
        if not self.image_shape:
            self.image_shape = shape
        elif self.image_shape != shape:
            raise ValueError(
                f"{origin} has {shape[0]} channels of {shape[1]}x{shape[2]} pixels, the images "
                f"before it {self.image_shape[0]} of {self.image_shape[1]}x{self.image_shape[2]}; "
                "set image_size"
            )

    def add(self, num_pixels: int, sums: Sums) -> None:
        """Count an image in."""
        self._pixels += num_pixels
        zeros = [0] * len(sums.values)
        self._values = [a + b for a, b in zip(self._values or zeros, sums.values, strict=True)]
        self._squares = [a + b for a, b in zip(self._squares or zeros, sums.squares, strict=True)]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of pixels in [0, 1]."""
        self._check_not_empty()
        return tuple(total / (255 * self._pixels) for total in self._values)

    @property
    def deviation(self) -> tuple[float, ...]:
        """Standard deviation per channel of pixels in [0, 1]."""
        self._check_not_empty()
        return tuple(
            math.sqrt(self._pixels * squares - total * total) / (255 * self._pixels)
            for total, squares in zip(self._values, self._squares, strict=True)
        )

    def _check_not_empty(self) -> None:
        if not self._pixels:
            raise ValueError("there must be at least one training image")
