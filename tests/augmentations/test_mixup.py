import pytest
import torch

from components.augmentations.mixup import mixup


def blended_identity(count, alpha):
    """Blend one-hot images with one-hot targets: the diagonal holds each image's weight."""
    generator = torch.Generator().manual_seed(0)
    images = torch.eye(count).view(count, 1, 1, count)
    blended, targets = mixup(images, torch.eye(count), alpha=alpha, generator=generator)
    return blended.view(count, count), targets


def test_images_and_targets_share_partner_and_weight():
    blended, targets = blended_identity(50, alpha=1.0)
    assert torch.allclose(blended, targets)
    own = targets.diagonal()
    assert ((targets > 0).sum(1) <= 2).all()
    assert len(own.unique()) > 40  # each image has a weight of its own
    partners = (targets - torch.diag(own)).argmax(1)[own < 1]
    assert len(partners.unique()) == len(partners)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0])
def test_weights_follow_the_symmetric_beta_distribution(alpha):
    from scipy.stats import beta

    count = 3000
    drawn = blended_identity(count, alpha)[1].diagonal()
    for threshold in (0.05, 0.25, 0.5, 0.75, 0.95):
        share = float(beta(alpha, alpha).cdf(threshold))
        found = float((drawn < threshold).double().mean())
        # Four standard deviations, and one image that may have met itself.
        assert abs(found - share) < 4 * (share * (1 - share) / count) ** 0.5 + 1 / count


def test_negative_alpha_is_refused():
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        mixup(torch.zeros(1, 1, 1, 1), torch.ones(1, 1), alpha=-1.0, generator=generator)
