"""shortened: from a clean image towards an adversarial one, only as far as it takes."""

from functools import partial

import torch
from torch import Tensor

from components.attacks.losses import margin
from components.tensors import Classifier, Images, Labels

_REACHES = 1.0, 1.02, 1.1, 1.5  # tried in turn until an image fools
_BISECTIONS = 8


@torch.no_grad()
def shortened(
    model: Classifier,
    images: Images,
    adversarial: Images,
    labels: Labels,
    *,
    confidence: float = 0.0,
    draws: int = 1,
) -> Images:
    """Bisect between each clean image and its adversarial one for the nearest that fools.

    One that does not fool this model, because it was found on another, may lie short of the
    boundary: it is looked for up to half as far again. Costs nine forward passes, and up to three
    more for such images.

    Args:
        model: in evaluation mode.
        images: float32 in [0, 1].
        adversarial: of the same shape; where equal to the clean image, it stays.
        labels: the true classes.
        confidence: margin that counts as fooled.
        draws: forward passes that are averaged, for models that draw at random.

    Returns:
        Images that the model was asked about as they are, and got wrong; clean ones where none
        was found.
    """
    result = images.clone()
    rows = (adversarial != images).flatten(1).any(1).nonzero().squeeze(1)
    fools = partial(_fools, model, confidence=confidence, draws=draws)
    found = []
    for reach in _REACHES:
        if not len(rows):
            break
        points = adversarial[rows]
        if reach > 1:
            points = torch.lerp(images[rows], points, reach).clamp_(0, 1)
        fooled = fools(points, labels[rows])
        result[rows[fooled]] = points[fooled]
        found.append(rows[fooled])
        rows = rows[~fooled]
    rows = torch.cat(found) if found else rows
    if not len(rows):
        return result
    clean, nearest, true = images[rows], result[rows], labels[rows]
    perturbation = nearest - clean
    short, enough = torch.zeros_like(clean[:, :1, :1, :1]), torch.ones_like(clean[:, :1, :1, :1])
    for _ in range(_BISECTIONS):
        middle = (short + enough) / 2
        points = torch.addcmul(clean, middle, perturbation).clamp_(0, 1)
        fooled = fools(points, true).view(-1, 1, 1, 1)
        nearest = torch.where(fooled, points, nearest)
        enough, short = torch.where(fooled, middle, enough), torch.where(fooled, short, middle)
    result[rows] = nearest
    return result


def _fools(
    model: Classifier, points: Images, labels: Labels, *, confidence: float, draws: int
) -> Tensor:
    leads = torch.stack([margin(model(points), labels) for _ in range(draws)]).mean(0)
    return leads > confidence
