"""Blurs, glass, zoom and elastic deformation, recomputed with SciPy and OpenCV."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from components.augmentations.corruptions.blurs import _ZOOMS, defocus, enlarge, move, rush
from components.augmentations.corruptions.digital import deform
from components.augmentations.corruptions.filtering import convolve, disk, line, smooth
from components.augmentations.corruptions.glass import (
    _shifts,
    _turns,
    glass_blur,
    see_through_glass,
    wander,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(*shape, seed=1):
    return torch.rand(shape, generator=generator(seed))


@pytest.mark.parametrize("shape", [(20, 31), (1, 5), (1, 1)])
@pytest.mark.parametrize("deviation", [0.3, 1.5, 40.0])
@pytest.mark.parametrize(("border", "truncate"), [("nearest", 4.0), ("reflect", 3.0)])
def test_smoothing_is_scipys(shape, deviation, border, truncate):
    image = random_images(1, 1, *shape)
    expected = ndimage.gaussian_filter(
        image[0, 0].double().numpy(), deviation, mode=border, truncate=truncate
    )
    result = smooth(image, deviation, truncate=truncate, border=border)
    assert np.abs(result[0, 0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(("border", "mode"), [("nearest", "nearest"), ("mirror", "mirror")])
@pytest.mark.parametrize("size", [(12, 17), (3, 2), (1, 1)])
def test_convolution_is_scipys(border, mode, size):
    images, kernels = random_images(2, 3, *size), random_images(2, 7, 5, seed=2)
    kernels /= kernels.sum((1, 2), keepdim=True)
    result = convolve(images, kernels, border=border)
    for image, kernel, found in zip(images, kernels, result, strict=True):
        for channel, one in zip(image, found, strict=True):
            expected = ndimage.correlate(channel.numpy(), kernel.numpy(), mode=mode)
            assert np.abs(one.numpy() - expected).max() < 1e-6


def published_disk(radius, deviation):
    reach = 8 if radius <= 8 else radius
    places = np.arange(-reach, reach + 1)
    kernel = ((places**2)[:, None] + places**2 <= radius**2).astype(np.float32)
    size = (3, 3) if radius <= 8 else (5, 5)
    return cv2.GaussianBlur(kernel / kernel.sum(), size, sigmaX=deviation)


@pytest.mark.parametrize(
    ("radius", "deviation"), [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]
)
def test_disk_is_the_published_one_and_sums_to_one(radius, deviation):
    kernel = disk(radius, deviation)[0]
    published = torch.from_numpy(published_disk(radius, deviation))
    rest = (len(published) - len(kernel)) // 2
    # The published grid cuts a rim off the disks that reach its border.
    ours = torch.nn.functional.pad(kernel, (rest,) * 4)
    assert (ours - published).abs().max() < (1e-6 if radius < 8 else 1e-3)
    for scale in (1 / 224, 0.1, 0.5, 1.0, 2.3):
        scaled = disk(radius, deviation, scale=scale)[0]
        assert float(scaled.sum()) == pytest.approx(1, abs=1e-5) and (scaled >= 0).all()
        assert torch.allclose(scaled, scaled.flip(0, 1), atol=1e-6)


def test_disks_keep_their_width_relative_to_the_image():
    def width(scale):
        kernel = disk(10, 0.5, scale=scale)[0].sum(0).double()
        places = torch.arange(len(kernel)) - len(kernel) // 2
        return float((kernel * places**2).sum().sqrt()) / scale

    assert width(2.0) == pytest.approx(width(1.0), rel=0.05)
    assert width(0.5) == pytest.approx(width(1.0), rel=0.05)


def test_defocus_is_opencvs_filter():
    images = random_images(1, 3, 224, 224)
    image = images[0].permute(1, 2, 0).numpy()
    expected = cv2.filter2D(image, -1, published_disk(4, 0.5))
    assert np.abs(defocus(images, 4, 0.5)[0].permute(1, 2, 0).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("angle", [0.0, math.pi / 2])
def test_motion_along_an_axis_is_a_gaussian_line(angle):
    images = random_images(1, 3, 224, 240)
    weights = np.exp(-(np.arange(-10, 11) ** 2) / (2 * 3.0**2))
    weights /= weights.sum()
    result = move(images, 10, 3.0, angles=(angle, angle), generator=generator())
    axis = 1 if angle == 0 else 0
    for channel, found in zip(images[0], result[0], strict=True):
        expected = ndimage.correlate1d(channel.numpy(), weights, axis=axis, mode="nearest")
        assert np.abs(found.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_lines_point_where_they_should_and_spread_as_far(scale):
    angles = torch.tensor([-0.7, 0.3, 0.78])
    kernels = line(15, 5.0, angles, scale=scale).double()
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(3).double(), atol=1e-5)
    places = torch.arange(kernels.shape[1]) - kernels.shape[1] // 2
    taps = torch.arange(-15, 16).double()
    weights = torch.exp(-(taps**2) / 50)
    spread = float((weights / weights.sum() * taps**2).sum()) * scale**2
    for kernel, angle in zip(kernels, angles.tolist(), strict=True):
        covariance = float((kernel * places[:, None] * places).sum())
        assert covariance == pytest.approx(spread * math.sin(angle) * math.cos(angle), rel=0.02)


def test_zoom_lists_are_the_published_ones():
    lists = [zooms for (zooms,) in _ZOOMS]
    assert [len(zooms) for zooms in lists] == [12, 16, 11, 13, 11]
    assert [zooms[-1] for zooms in lists] == [1.11, 1.15, 1.2, 1.24, 1.3]
    assert all(zooms[0] == 1 for zooms in lists)


def scipy_zoom(channel, zoom):
    size = channel.shape
    inner = [math.ceil(side / zoom) for side in size]
    starts = [(side - part) // 2 for side, part in zip(size, inner, strict=True)]
    middle = channel[starts[0] : starts[0] + inner[0], starts[1] : starts[1] + inner[1]]
    large = ndimage.zoom(middle, zoom, order=1)
    top, left = ((side - part) // 2 for side, part in zip(large.shape, size, strict=True))
    return large[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("size", [(32, 32), (45, 64)])
def test_zoom_blur_is_the_mean_of_scipys_zooms(size):
    images, zooms = random_images(1, 2, *size), (1.0, 1.06, 1.12, 1.3)
    for zoom in zooms:
        for channel, found in zip(images[0], enlarge(images, zoom)[0], strict=True):
            assert np.abs(found.numpy() - scipy_zoom(channel.numpy(), zoom)).max() < 1e-4
    mean = (images + sum(enlarge(images, zoom) for zoom in zooms)) / 5
    assert torch.allclose(rush(images, zooms), mean, atol=1e-6)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(("shape", "spread"), [((9, 13), 2), ((14, 11), 6), ((9, 12), 4.4)])
def test_glass_moves_pixels_as_one_after_the_other(copies, shape, spread):
    """The published loop, pixel by pixel, with the same shifts."""
    height, width = shape
    reach = math.ceil(math.sqrt(spread + 0.25) - 0.5)
    found = wander(torch.zeros(2, 1, *shape), spread, 2, copies=copies, generator=generator())
    order = torch.cat(_turns(height, width, reach, copies)).tolist()
    draws = generator()
    grids = np.arange(height * width).reshape(1, height, width).repeat(2, 0)
    for _ in range(2):
        shifts = _shifts((2, 2, len(order)), spread, copies, draws).numpy()
        turn = {pixel: number for number, pixel in enumerate(order)}
        bottom, top = (height - reach, reach) if copies else (height - reach - 1, reach - 1)
        right, left = (width - reach, reach) if copies else (width - reach - 1, reach - 1)
        for row in range(bottom, top, -1):
            for column in range(right, left, -1):
                down, across = shifts[:, :, turn.pop(row * width + column)]
                for grid, a, b in zip(grids, down, across, strict=True):
                    here, there = grid[row, column], grid[row + a, column + b]
                    grid[row, column] = there
                    if not copies:
                        grid[row + a, column + b] = here
        assert not turn
    assert np.array_equal(found.view(2, height, width).numpy(), grids)
    kept = [len(row.unique()) == height * width for row in found]
    assert kept == [not copies] * 2


@pytest.mark.parametrize("spread", [0.3, 2.0, 4.4, 12.0])
def test_shifts_have_their_spread(spread):
    shifts = _shifts((2, 1, 200_000), spread, False, generator()).double()
    assert float(shifts.square().mean() * 3) == pytest.approx(spread, rel=0.02)
    assert float(shifts.mean()) == pytest.approx(0, abs=0.02)
    reach = int(shifts.max())
    copied = _shifts((2, 1, 200_000), 12.0, True, generator())
    assert (int(copied.min()), int(copied.max())) == (-3, 2) and int(shifts.min()) == -reach


@pytest.mark.parametrize("mixes", [False, True])
def test_glass_without_shifts_blurs_twice(mixes):
    images = random_images(1, 3, 224, 230)
    result = see_through_glass(images, 0.9, 0, 1, mixes_colours=mixes, generator=generator())
    pixels = images[0].permute(1, 2, 0).double().numpy()
    deviations = (0.9, 0, 0.9) if mixes else (0.9, 0.9, 0)
    for _ in range(2):
        pixels = ndimage.gaussian_filter(pixels, deviations, mode="nearest")
    assert np.abs(result[0].permute(1, 2, 0).numpy() - pixels).max() < 1e-5


def test_published_glass_can_be_had():
    images = random_images(2, 3, 40, 40)
    kinds = [
        glass_blur(images, severity=4, copies=copies, mixes_colours=mixes, generator=generator())
        for copies in (False, True)
        for mixes in (False, True)
    ]
    assert len({tuple(kind.flatten()[:500].tolist()) for kind in kinds}) == 4


def draws_of_elastic(count, height, width, movement):
    drawn = generator(5)
    moves = (torch.rand(count, 3, 2, generator=drawn) * 2 - 1) * movement
    noise = torch.rand(count, 2, height, width, generator=drawn) * 2 - 1
    return moves.double().numpy(), noise.double().numpy()


def test_affine_part_is_opencvs():
    images, movement = random_images(2, 1, 224, 236), 12.0
    result = deform(images, 0.0, 3.0, movement, generator=generator(5))
    moves, _ = draws_of_elastic(2, 224, 236, movement)
    for image, move_, found in zip(images, moves, result, strict=True):
        before = np.array([[1, 1], [1, -1], [-1, -1]]) * (224 // 3) + [112, 118]
        forward = cv2.getAffineTransform(
            before[:, ::-1].astype(np.float32), (before + move_)[:, ::-1].astype(np.float32)
        )
        back = cv2.invertAffineTransform(forward)
        rows, columns = np.meshgrid(np.arange(224), np.arange(236), indexing="ij")
        across = back[0, 0] * columns + back[0, 1] * rows + back[0, 2]
        down = back[1, 0] * columns + back[1, 1] * rows + back[1, 2]
        expected = ndimage.map_coordinates(image[0].numpy(), [down, across], order=1, mode="mirror")
        assert np.abs(found[0].numpy() - expected).max() < 2e-3
        # OpenCV itself rounds places to 1/32 of a pixel.
        warped = cv2.warpAffine(
            image[0].numpy(), forward, (236, 224), borderMode=cv2.BORDER_REFLECT_101
        )
        assert np.abs(found[0].numpy() - warped).mean() < 0.02


@pytest.mark.parametrize(("strength", "deviation"), [(15.0, 2.5), (480.0, 170.0)])
def test_elastic_part_is_scipys(strength, deviation):
    images = random_images(1, 1, 224, 230)
    result = deform(images, strength, deviation, 0.0, generator=generator(5))
    _, noise = draws_of_elastic(1, 224, 230, 0.0)
    shifts = [
        ndimage.gaussian_filter(field, deviation, mode="reflect", truncate=3) * strength
        for field in noise[0]
    ]
    rows, columns = np.meshgrid(np.arange(224), np.arange(230), indexing="ij")
    places = [rows + shifts[0], columns + shifts[1]]
    expected = ndimage.map_coordinates(images[0, 0].numpy(), places, order=1, mode="reflect")
    assert np.abs(result[0, 0].numpy() - expected).max() < 2e-3
