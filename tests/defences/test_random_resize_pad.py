"""Random resize-pad: uniform sizes, every place, and what it leaves alone."""

import collections
import math

import pytest
import torch
from torch import nn

from components.defences.defended import honest_view, is_randomised
from components.defences.random_resize_pad import (
    RandomResizePad,
    moving_pads,
    predict_ensemble,
    unmoved,
)
from components.defences.smoothing import Smoothing


class Sight(nn.Module):
    """Remembers what the model behind the defence was shown."""

    def forward(self, images):
        self.images = images
        return images.flatten(1)


def draw(images, count, **options):
    defence = RandomResizePad(Sight(), **options)
    torch.manual_seed(0)
    for _ in range(count):
        defence(images)
        yield defence.inner.images


def occupied(images):
    """Size and offset of what is not padding, along height and width."""
    lit = images[0, 0] > 0
    for along in (lit.any(1), lit.any(0)):
        places = along.nonzero().flatten()
        yield len(places), int(places[0])


def test_sizes_are_uniform_and_every_offset_that_fits_occurs():
    """Sides of 4 to 8 of 8 pixels: 5 sizes, and 5 + 4 + 3 + 2 + 1 places, along each direction."""
    count = 4_000
    seen = [list(occupied(image)) for image in draw(torch.ones(1, 1, 8, 8), count, min_size=0.5)]
    for along in zip(*seen, strict=True):
        sizes = collections.Counter(size for size, _ in along)
        assert sizes.keys() == {4, 5, 6, 7, 8}
        assert all(abs(n - count / 5) < 5 * math.sqrt(count * 0.16) for n in sizes.values())
        places = collections.Counter(along)
        assert len(places) == 15
        for (size, _), n in places.items():
            expected = count / 5 / (9 - size)
            assert abs(n - expected) < 5 * math.sqrt(expected)


def test_height_and_width_are_drawn_apart():
    seen = [list(occupied(image)) for image in draw(torch.ones(1, 1, 8, 8), 200, min_size=0.5)]
    assert any(height != width for (height, _), (width, _) in seen)


def test_smallest_size_is_a_share_of_each_side():
    sizes = [list(occupied(i)) for i in draw(torch.ones(1, 1, 20, 10), 300, min_size=0.8)]
    assert {height for (height, _), _ in sizes} == {16, 17, 18, 19, 20}
    assert {width for _, (width, _) in sizes} == {8, 9, 10}


def test_padding_is_black_and_pixels_are_picked_not_mixed():
    images = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(1)) + 0.1
    for shown in draw(images, 50, min_size=0.5):
        assert shown.shape == images.shape
        for image, original in zip(shown, images, strict=True):
            assert torch.isin(image[image != 0], original).all()


def test_one_draw_serves_the_whole_batch():
    images = torch.ones(4, 1, 8, 8)
    for shown in draw(images, 20, min_size=0.5):
        assert (shown == shown[:1]).all()


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_train_only(mode, lin400):
    defence = RandomResizePad(lin400.model, train_only=True).train(mode == "training")
    torch.manual_seed(0)
    with torch.no_grad():
        plain = lin400.model(lin400.images)
        same = [torch.equal(defence(lin400.images), plain) for _ in range(20)]
    assert all(same) == (mode == "evaluation")
    assert not is_randomised(defence) and honest_view(defence) is lin400.model


def test_honest_view_averages_log_probabilities_over_eight_draws(lin400):
    defence = RandomResizePad(lin400.model)
    view, images = honest_view(defence), lin400.images[:10]
    with torch.no_grad():
        torch.manual_seed(3)
        averaged = view(images)
        torch.manual_seed(3)
        draws = torch.stack([defence(images).log_softmax(1) for _ in range(8)])
    assert torch.allclose(averaged, draws.mean(0))


def test_honest_view_finds_a_steadier_gradient(lin400):
    """Gradients of two calls agree better when each averages over draws."""

    def agreement(view):
        torch.manual_seed(0)
        found = []
        for _ in range(2):
            images = lin400.images[:100].clone().requires_grad_(True)
            losses = nn.functional.cross_entropy(view(images), lin400.labels[:100], reduction="sum")
            found.append(torch.autograd.grad(losses, images)[0].flatten(1))
        return torch.cosine_similarity(*found).mean()

    defence = RandomResizePad(lin400.model, min_size=0.5)
    assert agreement(honest_view(defence)) > agreement(defence) + 0.2


@pytest.mark.parametrize("min_size", [0.0, -0.5, 1.01, float("nan")])
def test_wrong_size(min_size):
    with pytest.raises(ValueError, match="min_size must be above 0 and at most 1, got"):
        RandomResizePad(nn.Flatten(), min_size=min_size)


def test_a_single_pixel_survives():
    assert all((image == 1).all() for image in draw(torch.ones(1, 1, 1, 1), 5, min_size=0.1))


def test_published_form_has_91_outcomes_of_224_pixels():
    """Six sides from 218 to 223, alike, and always a padded pixel right and below."""
    count = 4_000
    seen = collections.Counter(
        tuple(occupied(image))
        for image in draw(torch.ones(1, 1, 224, 224), count, min_size=218 / 224, form="published")
    )
    assert len(seen) == 91
    sizes = collections.Counter()
    for ((height, top), (width, left)), n in seen.items():
        assert height == width and max(height + top, width + left) <= 223
        sizes[height] += n
        expected = count / 6 / (224 - height) ** 2
        assert abs(n - expected) < 5 * math.sqrt(expected) + 1
    assert sizes.keys() == {218, 219, 220, 221, 222, 223}
    assert all(abs(n - count / 6) < 5 * math.sqrt(count * 5 / 36) for n in sizes.values())


def test_per_sample_draws_differ_within_a_batch():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2)) + 0.1
    (shown,) = draw(images, 1, min_size=0.5, per_sample=True)
    assert len({tuple(occupied(image[None])) for image in shown}) > 3
    torch.manual_seed(0)
    alone = RandomResizePad(Sight(), min_size=0.5)
    for image, expected in zip(images, shown, strict=True):
        alone(image[None])  # the same stream, one image after the other
        assert torch.equal(alone.inner.images[0], expected)


def test_fixed_form_is_the_export_of_218_in_the_middle():
    (shown,) = draw(torch.ones(2, 3, 224, 224), 1, min_size=218 / 224, fixed=True)
    expected = torch.zeros(2, 3, 224, 224)
    expected[..., 3:221, 3:221] = 1
    assert torch.equal(shown, expected)
    defence = RandomResizePad(Sight(), min_size=0.5, fixed=True)
    honest_view(defence)(torch.ones(1, 1, 4, 4))
    assert list(occupied(defence.inner.images)) == [(2, 1), (2, 1)] and not is_randomised(defence)


def test_padding_may_be_grey():
    (shown,) = draw(torch.ones(1, 1, 8, 8), 1, min_size=0.5, fixed=True, fill=0.25)
    assert shown[0, 0, 0, 0] == 0.25 and (shown == 0.25).sum() == 64 - 16


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_other_interpolations_keep_grey_and_stay_in_range(interpolation):
    grey = torch.full((1, 3, 9, 9), 0.5)
    (shown,) = draw(grey, 1, min_size=0.6, fixed=True, interpolation=interpolation)
    assert torch.allclose(shown[shown != 0], torch.tensor(0.5))
    noise = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0)).round()
    for shown in draw(noise, 20, min_size=0.5, interpolation=interpolation):
        assert shown.min() >= 0 and shown.max() <= 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_pixels_have_a_gradient(value):
    """Just that of the interpolation, also where it rounds white up; true overshoots have none."""
    images = torch.full((1, 1, 28, 28), value, requires_grad=True)
    weights = torch.rand(28 * 28, generator=torch.Generator().manual_seed(1)) + 0.1
    defended = RandomResizePad(nn.Flatten(), min_size=0.75, fixed=True, interpolation="bicubic")
    smaller = nn.functional.interpolate(images, size=(21, 21), mode="bicubic")
    padded = nn.functional.pad(smaller, (3, 4, 3, 4)).flatten(1)
    found, expected = (
        torch.autograd.grad((shown * weights).sum(), images)[0]
        for shown in (honest_view(defended)(images), padded)
    )
    assert torch.allclose(found, expected, atol=1e-6) and bool((found != 0).float().mean() > 0.9)


def test_a_resize_pad_can_be_held_still():
    """Also by a view that was made before, and whatever is around it."""
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    for options in ({}, {"per_sample": True}, {"fixed": True}, {"train_only": True}):
        defence = RandomResizePad(nn.Flatten(), min_size=0.5, **options).eval()
        model = nn.Sequential(Smoothing(defence), nn.Identity())
        view, randomised = honest_view(model[0]), defence.randomised
        assert moving_pads(model) == ([] if "train_only" in options else [defence])
        with pytest.raises(ZeroDivisionError), unmoved(model):
            assert not moving_pads(model) and not is_randomised(model)
            expected = Smoothing(nn.Flatten())(images)
            for classify in (view, honest_view(model[0]), model):
                assert torch.equal(classify(images), expected)
            raise ZeroDivisionError
        assert defence.moves == ("train_only" not in options)
        assert defence.randomised == randomised


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@torch.no_grad()
def test_ensemble_averages_over_stated_draws(average, lin400):
    defence, images = RandomResizePad(lin400.model, min_size=0.5), lin400.images[:20]
    state = torch.random.get_rng_state()
    found = predict_ensemble(defence, images, draws=7, seed=5, average=average)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    drawn = torch.stack([defence(images) for _ in range(7)])
    if average == "logits":
        assert torch.allclose(found, drawn.mean(0), atol=1e-6)
    else:
        assert torch.allclose(found.exp(), drawn.softmax(2).mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        predict_ensemble(defence, images, draws=0, seed=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": 1.5}, r"fill must be in \[0, 1\], got 1.5"),
        ({"form": "published", "min_size": 1.0}, "never draws the full side"),
        ({"fixed": True, "form": "published"}, "fixed draws nothing"),
        ({"fixed": True, "per_sample": True}, "fixed draws nothing"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        RandomResizePad(nn.Flatten(), **options)


def test_published_form_wants_squares():
    with pytest.raises(ValueError, match="takes square images, got 8 x 6"):
        RandomResizePad(nn.Flatten(), form="published")(torch.ones(1, 1, 8, 6))
