"""Keyed random numbers: published outputs, uniform, independent, the same in any company."""

import math

import pytest
import torch

from components.randomness import mix, normal, sample_seeds, uniform

GOLDEN = 0x9E3779B97F4A7C15
EXTREME = [0, 1, -1, 2**63 - 1, -(2**63), 2**62]


def signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def chi_square_deviation(counts: torch.Tensor) -> float:
    """How many standard deviations chi-square lies from its mean for equally likely cells."""
    expected = counts.sum() / counts.numel()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.numel() - 1
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def test_mix_is_the_finaliser_of_splitmix64():
    """The first three outputs of SplitMix64 seeded with 0, as published with it."""
    states = torch.tensor([signed(GOLDEN * i) for i in (1, 2, 3)])
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix(states, -1).tolist() == [signed(value) for value in published]


def test_mix_never_merges_two_values():
    values = torch.cat([torch.arange(-50_000, 50_000), torch.tensor(EXTREME[3:])])
    assert len(mix(values, 7).unique()) == len(values)


def test_half_of_the_bits_flip_with_any_bit_of_the_seed():
    seeds = mix(torch.arange(2000), 0)
    for bit in range(63):
        flipped = (
            uniform(seeds, (1,), stream=0) * 2**24,
            uniform(seeds ^ (1 << bit), (1,), stream=0),
        )
        changed = flipped[0].long() ^ (flipped[1] * 2**24).long()
        share = sum(((changed >> i) & 1).double().mean() for i in range(24)) / 24
        assert share == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("stream", [0, 1, 1000])
@pytest.mark.parametrize("seed", EXTREME)
def test_uniform_for_any_seed(seed, stream):
    draws = uniform(torch.tensor([seed]), (100_000,), stream=stream)
    assert draws.dtype == torch.float32 and draws.min() >= 0 and draws.max() < 1
    assert abs(chi_square_deviation(torch.histc(draws, 256, 0, 1))) < 4
    assert draws.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 1e5))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, -(2**40), 2**64 + 3])
def test_images_of_one_seed_are_uniform_too(seed):
    """The same pixel of neighbouring images, and neighbouring pixels, pair up evenly."""
    seeds = sample_seeds(seed, 20_000, torch.device("cpu"))
    cells = (uniform(seeds, (2,), stream=0) * 16).long()
    across = torch.bincount(cells[:-1, 0] * 16 + cells[1:, 0], minlength=256)
    within = torch.bincount(cells[:, 0] * 16 + cells[:, 1], minlength=256)
    assert abs(chi_square_deviation(across)) < 4
    assert abs(chi_square_deviation(within)) < 4


def test_draws_are_uncorrelated():
    seeds = sample_seeds(0, 4, torch.device("cpu"))
    draws = [uniform(seeds, (50_000,), stream=stream) for stream in range(8)]
    other_seed = uniform(sample_seeds(1, 4, torch.device("cpu")), (50_000,), stream=0)
    correlations = torch.corrcoef(torch.cat([*draws, other_seed]))
    off_diagonal = correlations - torch.eye(len(correlations))
    assert off_diagonal.abs().max() < 5 / math.sqrt(50_000)


def test_pixels_of_an_image_do_not_depend_on_its_company():
    seeds = sample_seeds(5, 10, torch.device("cpu"))
    rows = torch.tensor([7, 2, 9])
    shape = (3, 4, 5)
    assert torch.equal(uniform(seeds, shape, stream=3)[rows], uniform(seeds[rows], shape, stream=3))
    assert torch.equal(normal(seeds, shape, stream=3)[rows], normal(seeds[rows], shape, stream=3))


def test_a_larger_shape_begins_with_the_smaller():
    seeds = torch.tensor([1, 2])
    assert torch.equal(uniform(seeds, (9,), stream=0)[:, :4], uniform(seeds, (4,), stream=0))


def test_normal_has_the_moments_of_a_normal():
    draws = normal(sample_seeds(0, 100, torch.device("cpu")), (10_000,), stream=0).double()
    assert draws.isfinite().all()
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, 3), (6, 15)]:
        deviation = draws.pow(2 * power).mean().sub(moment**2).sqrt() / 1000
        assert abs(draws.pow(power).mean() - moment) < 4 * deviation
    below = torch.special.ndtr(draws).float().flatten()
    assert abs(chi_square_deviation(torch.histc(below, 256, 0, 1))) < 4


def test_normal_is_finite_where_uniform_is_zero():
    seed = torch.tensor([32_924_560])
    assert uniform(seed, (1,), stream=0).item() == 0
    assert normal(seed, (1,), stream=0).item() == 0


def test_one_seed_or_one_per_image():
    device = torch.device("cpu")
    assert sample_seeds(3, 5, device).unique().numel() == 5
    assert torch.equal(sample_seeds(3, 5, device)[:2], sample_seeds(3, 2, device))
    own = torch.tensor([5, 6, 5])
    assert torch.equal(sample_seeds(own, 3, device), own)
    with pytest.raises(ValueError, match=r"one entry per image, got \(3,\)"):
        sample_seeds(own, 4, device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_draws_the_same():
    seeds = sample_seeds(0, 64, torch.device("cpu"))
    there = sample_seeds(0, 64, torch.device("cuda"))
    assert torch.equal(there.cpu(), seeds)
    for stream in (0, 9):
        drawn = uniform(there, (3, 32, 32), stream=stream).cpu()
        assert torch.equal(drawn, uniform(seeds, (3, 32, 32), stream=stream))
        assert torch.allclose(
            normal(there, (999,), stream=stream).cpu(),
            normal(seeds, (999,), stream=stream),
            atol=1e-5,
        )
