"""Importance: which places of an image a network's decision rests on, as class activation maps.

A method makes maps of shape (batch, 1, height, width) of features, of shape (batch, channels,
height, width), and of the gradients of one logit at these, its slopes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from components.objectives.watching import Seen
from components.tensors import Labels

_CONSTANT = 1e-8  # a map that spans less says nothing


def gradcam(features: Tensor, slopes: Tensor) -> Tensor:
    """Give ``ReLU(sum_k mean(g_k) A_k)``: Selvaraju et al., 2017, arXiv 1610.02391, equation 2."""
    return (slopes.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()


def gradcam_plus_plus(features: Tensor, slopes: Tensor) -> Tensor:
    """Weigh each gradient that helps by how alone it stands in its channel.

    Chattopadhay et al., 2018, https://arxiv.org/abs/1710.11063, equations 5 and 19.
    """
    slopes = slopes.expand_as(features)
    divisor = 2 * slopes**2 + features.sum((2, 3), keepdim=True) * slopes**3
    shares = _ratio(slopes**2, divisor)
    weights = (shares * slopes.relu()).sum((2, 3), keepdim=True)
    return (weights * features).sum(1, keepdim=True).relu()


def layercam(features: Tensor, slopes: Tensor) -> Tensor:
    """Give ``ReLU(sum_k ReLU(g_k) A_k)``, place by place: Jiang et al., 2021, equation 6."""
    return (slopes.relu() * features).sum(1, keepdim=True).relu()


def xgradcam(features: Tensor, slopes: Tensor) -> Tensor:
    """Weigh channels by their gradients where they are active; a dead channel counts nothing.

    Fu et al., 2020, https://arxiv.org/abs/2008.02312, equation 8.
    """
    weights = _ratio(
        (slopes * features).sum((2, 3), keepdim=True), features.sum((2, 3), keepdim=True)
    )
    return (weights * features).sum(1, keepdim=True).relu()


def cam(features: Tensor, slopes: Tensor) -> Tensor:
    """Give ``ReLU(sum_k W_k A_k) / places``: Zhou et al., 2016, arXiv 1512.04150, equation 2.

    Raises:
        ValueError: the logits are no dense layer of the mean features.
    """
    if slopes.shape[2:] != (1, 1):
        raise ValueError(
            "cam needs a network whose logits are a dense layer of its mean features; "
            "gradcam, layercam and xgradcam need none"
        )
    return gradcam(features, slopes)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cam": cam,
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
    "xgradcam": xgradcam,
}


def chosen_classes(seen: Seen, labels: Labels, of: str) -> Labels:
    """Give the class whose map is wanted, of each image.

    Args:
        seen: the pass.
        labels: the true classes.
        of: ``predicted``, ``label``, or ``runner_up``, the likeliest but for the true one.

    Raises:
        ValueError: it is none of these.
    """
    if of == "predicted":
        return seen.logits.argmax(1)
    if of == "label":
        return labels
    if of == "runner_up":
        return seen.logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    raise ValueError(f"of must be predicted, label or runner_up, got {of!r}")


def normalised(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch each map to [0, 1], and tell which ones were constant: these become 1."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    constant = ~(high - low >= _CONSTANT)  # one that is no number as well
    stretched = (maps - low) / torch.where(constant, 1, high - low)
    return torch.where(constant, 1, stretched), constant.flatten()


def resized(maps: Tensor, size: tuple[int, int], resize: str) -> Tensor:
    """Enlarge maps to a size.

    Args:
        maps: in [0, 1].
        size: height and width.
        resize: ``bilinear``, or ``bicubic`` and cut to [0, 1], or ``overshooting``, which is
            bicubic and not cut.

    Raises:
        ValueError: resize is none of these.
    """
    if resize == "bilinear":
        return functional.interpolate(maps, size, mode="bilinear")
    if resize not in ("bicubic", "overshooting"):
        raise ValueError(f"resize must be bilinear, bicubic or overshooting, got {resize!r}")
    # With antialias the cubic is that of image libraries, also where nothing shrinks.
    large = functional.interpolate(maps, size, mode="bicubic", antialias=True)
    return large if resize == "overshooting" else large.clamp_(0, 1)


def random_maps(labels: Labels, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw smooth maps that know nothing of the images: 4 by 4 uniform numbers, enlarged."""
    shape = len(labels), 1, 4, 4
    coarse = torch.rand(shape, generator=generator, device=generator.device)
    return functional.interpolate(coarse, size, mode="bilinear")


def centred_maps(labels: Labels, size: tuple[int, int]) -> Tensor:
    """Give maps that fall from the centre to the corners, alike for all images."""
    return (-distance_to_centre(size, labels.device)).expand(len(labels), 1, *size)


def distance_to_centre(size: tuple[int, int], device: torch.device) -> Tensor:
    """Give every pixel's distance to the centre, in pixels."""
    rows, columns = (torch.arange(n, device=device) - (n - 1) / 2 for n in size)
    return torch.hypot(rows[:, None], columns[None, :])


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below == 0, 0, above / torch.where(below == 0, 1, below))
