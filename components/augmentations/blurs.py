"""Blurs: a Gaussian one, and the ring of neighbours."""

import torch
from torch import Tensor
from torch.nn import functional

from components.augmentations.draws import pick, scale_of
from components.tensors import Images

_RADII = (1.0, 2.0)  # of 224 pixels
_SMALLEST_SCALE = 0.4  # a narrower Gaussian than 0.4 of a pixel leaves the image as it is
_PIXELS_AT_ONCE = 8 * 224 * 224  # they stay in the processor's cache between two passes
_PLANES_AT_ONCE = 16  # planes that the convolution takes together; fewer cost as much


def gaussian_blur(images: Images, *, generator: torch.Generator) -> Images:
    """Blur each image with a Gaussian.

    Its standard deviation is 1 or 2 pixels of 224, in proportion to the shorter side, but no less
    than 0.4 or 0.8 of a pixel. Beyond the edge its pixels repeat. Differs from the published code
    of Pei et al., 2022, https://arxiv.org/abs/2205.10617: a true Gaussian, where Pillow's is
    three box filters.

    Args:
        images: float in [0, 1].
        generator: on the images' device.
    """
    deviation = pick(_RADII, len(images), generator) * max(scale_of(images), _SMALLEST_SCALE)
    return blur_with(images, deviation)


def blur_with(images: Images, deviation: Tensor) -> Images:
    """Blur each image with a Gaussian of its own standard deviation, in pixels.

    It ends at three times the largest of these.
    """
    reach = round(3 * float(deviation.max())) if len(deviation) else 0
    place = torch.arange(-reach, reach + 1, device=images.device)
    kernels = torch.exp(-(place**2) / (2 * deviation.view(-1, 1) ** 2))
    kernels = kernels / kernels.sum(1, keepdim=True)
    at_once = _at_once(images)
    parts = zip(images.split(at_once), kernels.split(at_once), strict=True)
    return torch.cat([_separable(*part) for part in parts]).clamp_(0, 1)


def blur(images: Images, *, generator: torch.Generator) -> Images:  # noqa: ARG001
    """Replace each pixel by the mean of the ring of pixels at some distance; nothing is drawn.

    The distance is 2 pixels of 224, in proportion to the shorter side and at least 1: at 224 pixels
    this is Pillow's filter BLUR. Like there, pixels nearer to the edge than that stay.

    Args:
        images: float in [0, 1].
        generator: not used.
    """
    distance = max(1, round(2 * scale_of(images)))
    blurred = images.clone(memory_format=torch.contiguous_format)
    if min(images.shape[-2:]) <= 2 * distance:
        return blurred
    ring = torch.ones(2 * distance + 1, 2 * distance + 1, device=images.device)
    ring[1:-1, 1:-1] = 0
    inner = slice(distance, -distance)
    at_once = _at_once(images)
    for image, part in zip(blurred.split(at_once), images.split(at_once), strict=True):
        kernels = (ring / ring.sum()).expand(len(part), -1, -1)
        image[..., inner, inner] = filter_each(part, kernels).clamp_(0, 1)
    return blurred


def filter_each(images: Images, kernels: Tensor) -> Tensor:
    """Correlate each image's channels with its own kernel, only where the kernel fits.

    Few planes are cut into strips, which are filtered side by side.
    """
    count, channels, height, width = images.shape
    if count == 0:
        lost_rows, lost_columns = (side - 1 for side in kernels.shape[1:])
        return images.new_empty(0, channels, height - lost_rows, width - lost_columns)
    rows = height - kernels.shape[1] + 1
    strips = min(max(1, _PLANES_AT_ONCE // (count * channels)), rows)
    tall = -(-rows // strips)  # rounded up
    below = strips * tall - rows
    planes = functional.pad(images, (0, 0, 0, below)) if below else images
    if strips > 1:
        planes = planes.unfold(2, tall + kernels.shape[1] - 1, tall).transpose(3, 4)
    groups = count * channels * strips
    weights = kernels.repeat_interleave(channels * strips, 0).unsqueeze(1)
    filtered = functional.conv2d(planes.reshape(1, groups, -1, width), weights, groups=groups)
    return filtered.view(count, channels, strips * tall, -1)[:, :, :rows]


def _at_once(images: Images) -> int:
    height, width = images.shape[-2:]
    return max(1, _PIXELS_AT_ONCE // (height * width))


def _separable(images: Images, kernels: Tensor) -> Images:
    """Correlate each image along its rows, then its columns; pixels at the edge repeat beyond."""
    reach = kernels.shape[1] // 2
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    return filter_each(filter_each(padded, kernels.unsqueeze(1)), kernels.unsqueeze(2))
