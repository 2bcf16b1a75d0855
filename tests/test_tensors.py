"""Pixels kept in [0, 1]: torch's values, and a gradient at black and at white."""

import torch

from components.tensors import bounded


def slopes(pixels):
    pixels = torch.tensor(pixels, requires_grad=True)
    kept = bounded(pixels)
    (slope,) = torch.autograd.grad(kept.sum(), pixels)
    return kept.detach(), slope.tolist()


def test_the_gradient_stops_only_outside():
    values = [-torch.inf, -0.1, 0.0, 1e-9, 0.3, 1.0, 1.1, torch.inf]
    kept, slope = slopes(values)
    assert torch.equal(kept, torch.tensor(values).clamp(0, 1))
    assert slope == [0, 0, 1, 1, 1, 1, 0, 0]


def test_what_rounding_put_outside_is_cut_and_keeps_its_gradient():
    kept, slope = slopes([1.0 + 5e-7, -3e-8])
    assert kept.tolist() == [1, 0] and slope == [1, 1]


def test_its_gradient_has_one():
    pixels = torch.tensor([0.0, 0.5, 1.0, 2.0], requires_grad=True)
    (slope,) = torch.autograd.grad(bounded(pixels).square().sum(), pixels, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), pixels)
    assert second.tolist() == [2, 2, 2, 0]
