"""Noise: shares, colours and deviations as published."""

import pytest
import torch

from components.augmentations.noise import color_point_noise, gaussian_noise, pepper_salt_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(count, channels=3, side=100):
    return torch.full((count, channels, side, side), 0.5)


def within_five_deviations(found, pixels, share):
    return abs(int(found) - pixels * share) < 5 * (pixels * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("signal", [0.99, 0.5, 0.0])
def test_salt_and_pepper_have_half_of_the_noise_each(signal):
    noisy = pepper_salt_noise(grey(20), signal=signal, generator=generator())
    assert (noisy == noisy[:, :1]).all()  # all channels together
    pixels, share = 20 * 100 * 100, (1 - signal) / 2
    assert within_five_deviations((noisy[:, 0] == 1).sum(), pixels, share)
    assert within_five_deviations((noisy[:, 0] == 0).sum(), pixels, share)


def test_noisy_pixels_have_no_order():
    """They hit every image and every place alike, and a pixel tells nothing of the next."""
    noisy = pepper_salt_noise(grey(100, side=40), signal=0.9, generator=generator())[:, 0] != 0.5
    for share in (*noisy.double().mean((1, 2)), *noisy.double().mean((0, 1))):
        assert abs(share - 0.1) < 5 * (0.09 / 1600) ** 0.5
    pairs = noisy[:, :, 1:] & noisy[:, :, :-1]
    assert within_five_deviations(pairs.sum(), pairs.numel(), 0.01)


def test_full_signal_changes_nothing():
    images = torch.rand(3, 3, 9, 9, generator=generator())
    for noise in (pepper_salt_noise, color_point_noise):
        assert torch.equal(noise(images, signal=1.0, generator=generator()), images)


def test_points_are_pure_colours_or_any():
    noisy = color_point_noise(grey(40), generator=generator())
    points = noisy.permute(0, 2, 3, 1).reshape(-1, 3)
    points = points[(points != 0.5).any(1)]
    pixels = 40 * 100 * 100
    assert within_five_deviations(len(points), pixels, 0.01)
    pure = [(points == torch.eye(3)[channel]).all(1) for channel in range(3)]
    for found in pure:
        assert within_five_deviations(found.sum(), pixels, 0.0025)
    other = points[~torch.stack(pure).any(0)]
    assert within_five_deviations(len(other), pixels, 0.0025)
    assert (abs(other.mean(0) - 0.5) < 5 * (1 / 12 / len(other)) ** 0.5).all()


def test_points_on_grey_have_the_colours_brightness():
    noisy = color_point_noise(grey(40, 1), generator=generator())
    for brightness in (0.299, 0.587, 0.114):
        found = torch.isclose(noisy, torch.tensor(brightness)).sum()
        assert within_five_deviations(found, 40 * 100 * 100, 0.0025)


def test_thirty_deviations_all_with_the_same_chance():
    noise = gaussian_noise(grey(600, 1, 120), generator=generator()) - 0.5
    found = noise.flatten(1).std(1) * 29 / 0.15
    # The spread of each estimate is a 1/170 of itself; 0.4 is more than twice that of the largest.
    assert (abs(found - found.round()) < 0.4).double().mean() > 0.9
    counts = found.round().long().bincount(minlength=30)
    assert len(counts) == 30 and ((counts > 3) & (counts < 45)).all()
    zero = (noise == 0).flatten(1).all(1).sum()
    assert within_five_deviations(zero, 600, 1 / 30)
    widest = noise[found.argmax()].flatten() / noise[found.argmax()].std()
    assert abs(widest.abs().lt(1).double().mean() - 0.6827) < 5 * (0.22 / 14400) ** 0.5


def test_no_deviation_changes_nothing():
    images = torch.rand(3, 3, 9, 9, generator=generator())
    assert torch.equal(gaussian_noise(images, largest_deviation=0.0, generator=generator()), images)


@pytest.mark.parametrize("signal", [-0.1, 1.1, float("nan")])
def test_signal_out_of_range(signal):
    for noise in (pepper_salt_noise, color_point_noise):
        with pytest.raises(ValueError, match=r"signal must be in \[0, 1\]"):
            noise(grey(1), signal=signal, generator=generator())


def test_deviation_out_of_range():
    with pytest.raises(ValueError, match="largest_deviation must be at least 0"):
        gaussian_noise(grey(1), largest_deviation=-1.0, generator=generator())
