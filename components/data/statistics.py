"""Shape, mean and deviation of images that come one at a time, from exact integer sums."""

import math

import numpy as np
from numpy.typing import NDArray


class Statistics:
    """One shape for all images; mean and deviation of those that count.

    Integer sums make the figures independent of the images' order and of the machine.

    Attributes:
        image_shape: channels, height, width; empty before the first image.
    """

    def __init__(self) -> None:
        self.image_shape: tuple[int, ...] = ()
        self._pixels = 0
        self._sums: NDArray[np.object_] = np.zeros(0, object)
        self._squares: NDArray[np.object_] = np.zeros(0, object)

    def check_shape(self, pixels: NDArray[np.uint8], origin: str) -> None:
        """Hold an image against those before it.

        Args:
            pixels: height x width x channels.
            origin: what an error calls the image.

        Raises:
            ValueError: its shape is another one.
        """
        height, width, channels = pixels.shape
        if not self.image_shape:
            self.image_shape = channels, height, width
            self._sums = self._squares = np.zeros(channels, object)
        elif self.image_shape != (channels, height, width):
            raise ValueError(
                f"{origin} has {channels} channels of {height}x{width} pixels, the images before "
                f"it {self.image_shape[0]} of {self.image_shape[1]}x{self.image_shape[2]}; "
                "set image_size"
            )

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Count an image in that `check_shape` has seen."""
        flat = pixels.reshape(-1, pixels.shape[2]).astype(np.int64)
        self._pixels += len(flat)
        # Python's integers, since the squares of a large data set outgrow 64 bits.
        self._sums = self._sums + flat.sum(0).astype(object)
        self._squares = self._squares + (flat * flat).sum(0).astype(object)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel of pixels in [0, 1]."""
        self._check_not_empty()
        return tuple(total / (255 * self._pixels) for total in self._sums)

    @property
    def deviation(self) -> tuple[float, ...]:
        """Standard deviation per channel of pixels in [0, 1]."""
        self._check_not_empty()
        return tuple(
            math.sqrt(self._pixels * squares - total * total) / (255 * self._pixels)
            for total, squares in zip(self._sums, self._squares, strict=True)
        )

    def _check_not_empty(self) -> None:
        if not self._pixels:
            raise ValueError("there must be at least one training image")
