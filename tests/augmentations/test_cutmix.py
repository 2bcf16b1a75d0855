import pytest
import torch

from components.augmentations.cutmix import cutmix


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pasted(count, height, width, alpha=1.0):
    """Each image has a tone of its own, so every pixel tells whose it is."""
    tones = torch.arange(count) / count
    images = tones.view(-1, 1, 1, 1).expand(-1, 1, height, width)
    mixed, targets = cutmix(images, torch.eye(count), alpha=alpha, generator=generator())
    return (mixed != images)[:, 0], (mixed * count).round().long()[:, 0], targets


def test_targets_have_the_weight_of_the_area():
    foreign, owner, targets = pasted(300, 20, 32)
    share = foreign.double().mean((1, 2))
    partners = set()
    for image in range(300):
        others = owner[image][foreign[image]].unique()
        assert len(others) <= 1
        expected = torch.zeros(300)
        expected[image] = 1 - share[image]
        if len(others):
            expected[others] += share[image].float()
            partners.add(int(others))
        assert torch.allclose(targets[image], expected, atol=1e-6)
    assert len(partners) == int(foreign.flatten(1).any(1).sum())  # a permutation


def test_what_is_pasted_is_one_box_in_the_images_proportions():
    foreign, _, _ = pasted(400, 60, 120)
    for mask in foreign:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows):
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            if rows[0] > 0 and rows[-1] < 59 and columns[0] > 0 and columns[-1] < 119:
                assert abs(len(columns) - 2 * len(rows)) <= 2  # nothing was cut at the edge


def test_areas_follow_their_distribution():
    """Of boxes that no edge cuts; with λ uniform and the centre anywhere, by simulation."""
    foreign, _, _ = pasted(3000, 40, 40)
    draws = torch.Generator().manual_seed(1)
    side = (1 - torch.rand(20_000, generator=draws)).sqrt().mul(40).floor()
    covered = []
    for _ in range(2):
        centre = torch.randint(40, (20_000,), generator=draws)
        start = centre - (side / 2).floor()
        covered.append((start + side).clamp(max=40) - start.clamp(min=0))
    expected = (covered[0] * covered[1] / 1600).sort().values
    found = foreign.double().mean((1, 2)).sort().values
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs(found[int(3000 * quantile)] - expected[int(20_000 * quantile)]) < 0.03


def test_negative_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha must be at least 0"):
        cutmix(torch.zeros(1, 1, 1, 1), torch.ones(1, 1), alpha=-1.0, generator=generator())
