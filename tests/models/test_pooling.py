"""Pooling: the largest of four pixels, whichever way it is found."""

import pytest
import torch
from torch import nn

from components.models.pooling import MaxPool

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("channels", [1, 7, 16])
def test_the_same_pixels_without_a_gradient(channels, layout, dtype):
    generator = torch.Generator().manual_seed(channels)
    images = torch.randn(3, channels, 8, 6, generator=generator).to(dtype)
    images[0, 0, 3, 3] = torch.nan
    images = images.to(memory_format=layout)
    expected = nn.functional.max_pool2d(images, 2)
    with torch.no_grad():
        found = MaxPool()(images)
    assert torch.equal(found.nan_to_num(99.0), expected.nan_to_num(99.0))
    assert found.is_contiguous(memory_format=layout)


def test_the_gradient_goes_to_one_pixel_even_among_equals():
    images = torch.ones(1, 2, 4, 4, requires_grad=True)
    MaxPool()(images).sum().backward()
    assert images.grad.sum() == 8 and images.grad.max() == 1


def test_compilers_get_the_layer_that_they_know():
    with torch.no_grad():
        program = torch.export.export(MaxPool(), (torch.rand(1, 2, 4, 4),))
    operations = [str(node.target) for node in program.graph.nodes]
    assert "aten.max_pool2d.default" in operations
    assert not any("maximum" in operation for operation in operations)
