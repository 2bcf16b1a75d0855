"""Square: sizes and places of its windows, its budget of queries, and what the reference left."""

import pytest
import torch

from components.attacks.geometry import NORMS, distance
from components.attacks.losses import margin
from components.attacks.square import square

# Robust accuracy on LIN-400: radius, 300 queries of the reference, exact (specification, 10.2).
LIN400 = [
    ("linf", 8 / 255, 0.7625, 0.44),
    ("linf", 4 / 255, 0.8050, 0.7050),
    ("l2", 0.25, 0.7925, 0.6000),
    ("l2", 0.5, 0.7075, 0.2475),
    ("l1", 2.0, 0.6025, 0.4725),
]
SIDES = {
    28: [25, 18, 13, 9, 6, 4, 3, 2, 2, 1],
    32: [29, 20, 14, 10, 7, 5, 4, 3, 2, 1],
    224: [200, 142, 100, 71, 50, 35, 25, 18, 13, 9],
}
SCHEDULE = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
every_norm = pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.5), ("l1", 2.0)])


def queried(images, **options):
    """Give all that a model is asked whose margin nothing moves, so that no change is kept."""
    asked = []

    def model(points):
        asked.append(points.clone())
        return torch.tensor([[1.0, 0.0]]).expand(len(points), 2)

    square(model, images, torch.zeros(len(images), dtype=torch.int64), **options)
    return torch.stack(asked)


def heights(asked):
    """Count the rows in which each query differs from the first."""
    return (asked[1:] != asked[0]).any(-1).any(2).sum(-1).squeeze(1).tolist()


def changed(asked):
    """Tell which pixels any query changed, relative to the first."""
    return (asked[1:] != asked[0]).any(0).any(0).any(0)


@pytest.mark.parametrize("size", SIDES)
def test_windows_shrink_as_published(size):
    """A rescaled schedule of 1000 queries shrinks them ten times as early."""
    images = torch.full((1, 1, size, size), 0.5)
    for queries, rescale in [(60, False), (1000, True)]:
        asked = queried(images, epsilon=0.1, queries=queries, rescale_schedule=rescale)
        places = [query * (10 if rescale else 1) for query in range(1, queries)]
        expected = [SIDES[size][sum(place > last for last in SCHEDULE)] for place in places]
        assert heights(asked) == expected


def test_windows_of_other_norms_are_odd_and_have_three_rows_at_least():
    """What is emptied is exactly zero; at first one window is emptied and one filled."""
    images = torch.full((1, 1, 20, 20), 0.5)
    asked = queried(images, epsilon=1.0, norm="l2", queries=200, p_init=0.05)
    emptied = ((asked[1:] == 0.5) & (asked[0] != 0.5)).squeeze(1, 2)
    sizes = emptied.any(2).sum(1)
    assert sizes[0] == 5 and sizes.max() == 5, "the odd number from sqrt(0.05 * 400) = 4.5 on"
    assert sizes[100:].max() == 3


def test_linf_starts_with_stripes_in_the_corners():
    images = torch.rand(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    start = queried(images, epsilon=0.1, queries=1)[0]
    low, high = (images - 0.1).clamp_min(0), (images + 0.1).clamp_max(1)
    up = torch.isclose(start, high)
    assert (up | torch.isclose(start, low)).all()
    assert torch.equal(up, up[:, :, :1].expand_as(up)), "stripes run from top to bottom"
    assert not torch.equal(up[0], up[1]) and not torch.equal(up[:, 0], up[:, 1])


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_start_on_the_sphere_all_over_the_image(norm):
    images = torch.full((2, 3, 20, 25), 0.5)
    perturbation = queried(images, epsilon=1.0, norm=norm, queries=1)[0] - images
    assert torch.allclose(distance(perturbation, norm), torch.ones(2), rtol=1e-4)
    tiles = perturbation.unfold(2, 4, 4).unfold(3, 4, 4)[..., :5, :6, :, :]
    assert (tiles.abs().amax((-2, -1)) > 0).all()
    assert torch.allclose(tiles.sum((-2, -1)), torch.zeros(()), atol=1e-5), "opposite bumps"
    assert not torch.equal(perturbation[0], perturbation[1])


@every_norm
def test_in_ball_and_box_at_every_query(norm, epsilon, lin400):
    images = lin400.images[lin400.images.amin((1, 2, 3)) == 0][:20]  # some pixels at the walls
    asked = queried(images, epsilon=epsilon, norm=norm, queries=150)
    assert asked.min() >= 0 and asked.max() <= 1
    sizes = distance((asked - images).flatten(0, 1), norm)
    assert (sizes <= epsilon * (1 + 1e-5) + 1e-6).all()
    assert (sizes > 0.95 * epsilon).all(), "the budget is used"


@every_norm
def test_more_queries_never_leave_a_smaller_margin(norm, epsilon, lin400):
    images, labels = lin400.images[:60], lin400.labels[:60]
    few, more, many = (
        margin(
            lin400.model(
                square(lin400.model, images, labels, epsilon=epsilon / 4, norm=norm, queries=n)
            ),
            labels,
        )
        for n in (1, 10, 100)
    )
    assert (few <= more + 1e-5).all() and (more <= many + 1e-5).all()
    assert (many > few).double().mean() > 0.8


@every_norm
@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 8, 12)])
def test_windows_reach_the_last_row_and_column(norm, epsilon, shape):
    asked = queried(torch.full((1, *shape), 0.5), epsilon=epsilon, norm=norm, queries=300)
    touched = changed(asked)
    assert touched.all() if norm == "linf" else touched[-1].any() and touched[:, -1].any()


def test_parity_leaves_out_the_last_row_and_column():
    images = torch.full((4, 3, 9, 9), 0.5)
    touched = changed(queried(images, epsilon=0.1, queries=300, parity=True))
    assert touched[:-1, :-1].all() and not touched[-1].any() and not touched[:, -1].any()


def test_no_query_is_spent_on_what_is_there_already():
    """A square of one colour often falls on the same colour when there is one channel."""
    images = torch.full((1, 1, 5, 5), 0.5)
    asked, parity = (
        queried(images, epsilon=0.1, queries=600, parity=parity) for parity in (False, True)
    )
    assert (asked[1:] != asked[0]).flatten(1).any(1).all()
    assert 0.2 < (parity[1:] == parity[0]).flatten(1).all(1).double().mean() < 0.8


def test_every_image_has_windows_of_its_own():
    images, seeds = torch.full((3, 1, 16, 16), 0.5), torch.tensor([5, 6, 5])
    asked = queried(images, epsilon=0.1, queries=40, seed=seeds)
    assert torch.equal(asked[:, 0], asked[:, 2])
    assert (asked[:, 0] != asked[:, 1]).flatten(1).any(1).all()
    assert torch.equal(
        queried(images[1:2], epsilon=0.1, queries=40, seed=seeds[1:2]), asked[:, 1:2]
    )


@every_norm
def test_batch_size_changes_nothing(norm, epsilon, lin400):
    weight = lin400.model[1].weight.detach()

    def model(images):
        return (images.flatten(1)[:, None] * weight).sum(2)  # rounds alike in any batch

    images, labels = lin400.images[:11], lin400.labels[:11]
    options = {"epsilon": epsilon / 4, "norm": norm, "queries": 60}
    whole, parts = (square(model, images, labels, batch_size=n, **options) for n in (256, 4))
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("batch_size", [2, 256])
def test_a_fooled_image_costs_no_more_queries(batch_size):
    asked = []

    def model(images):
        """Tell bright images from dark ones, whatever a small perturbation does."""
        asked.append(len(images))
        bright = images.mean((1, 2, 3)) - 0.5
        return torch.stack([bright, -bright], 1)

    images = torch.cat([torch.full((3, 1, 5, 5), 0.2), torch.full((4, 1, 5, 5), 0.8)])
    labels = torch.zeros(7, dtype=torch.int64)
    square(model, images, labels, epsilon=0.1, queries=50, batch_size=batch_size)
    assert sum(asked) == 3 * 1 + 4 * 50 and max(asked) <= batch_size


@pytest.mark.parametrize(("norm", "epsilon", "reference", "exact"), LIN400)
def test_leaves_what_the_reference_leaves(norm, epsilon, reference, exact, lin400):
    """Up to luck: in the reference all images share the windows, and so their luck."""
    adversarial = square(*lin400, epsilon=epsilon, norm=norm, queries=300, parity=True)
    left = lin400.robust_accuracy(adversarial)
    assert left == pytest.approx(reference, abs=0.04) and left >= exact


def test_stronger_than_the_reference(lin400):
    ours, parity = (
        lin400.robust_accuracy(square(*lin400, epsilon=8 / 255, queries=300, parity=parity))
        for parity in (False, True)
    )
    assert 0.44 <= ours < parity - 0.01


def test_needs_no_gradient_and_no_more_than_two_classes(lin400):
    def model(images):
        assert not torch.is_grad_enabled() and not images.requires_grad
        with torch.no_grad():
            logits = lin400.model(images)
        return torch.stack([logits[:, 0], logits[:, 1:].amax(1)], 1)

    labels = (lin400.labels > 0).long()
    adversarial = square(model, lin400.images, labels, epsilon=0.1, queries=100)
    with torch.no_grad():
        right, left = (
            (model(images).argmax(1) == labels).double().mean()
            for images in (lin400.images, adversarial)
        )
    assert left < right - 0.2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("direction", [-1, 1])
def test_one_pixel_can_go_both_ways(norm, direction, one_pixel):
    model = one_pixel(lambda pixels: direction * (pixels - 0.5) - 0.05)
    images, labels = torch.full((12, 1, 1, 1), 0.5), torch.zeros(12, dtype=torch.int64)
    adversarial = square(model, images, labels, epsilon=0.1, norm=norm, queries=50)
    assert (model(adversarial).argmax(1) == 1).all()
    assert ((adversarial - 0.5).abs() <= 0.1 + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 2, 2), (1, 1, 9), (2, 17, 4), (3, 4, 17)])
def test_images_of_any_shape(norm, shape):
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def model(images):
        score = ((images - 0.5) * weight).flatten(1).sum(1)
        return torch.stack([score, -score], 1)

    labels = model(images).argmax(1)
    before = margin(model(images), labels)
    adversarial = square(model, images, labels, epsilon=0.05, norm=norm, queries=200)
    assert (distance(adversarial - images, norm) <= 0.05 * (1 + 1e-5) + 1e-6).all()
    assert (margin(model(adversarial), labels) > before).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "queries and batch_size must be at least 1, got 0 and 256"),
        ({"batch_size": 0}, "queries and batch_size must be at least 1, got 5000 and 0"),
        ({"p_init": 0.0}, r"p_init must be in \(0, 1\], got 0.0"),
        ({"p_init": 1.5}, r"p_init must be in \(0, 1\], got 1.5"),
    ],
)
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        square(*lin400, epsilon=0.1, **options)
