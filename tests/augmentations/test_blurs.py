"""Blurs beside Pillow's and torchvision's."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.nn import functional
from torchvision.transforms.v2 import functional as reference

from components.augmentations.blurs import blur, blur_with, filter_each, gaussian_blur


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape):
    return torch.rand(shape, generator=generator(9))


def in_pillow(image, kind):
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return torch.from_numpy(np.array(Image.fromarray(pixels).filter(kind))).permute(2, 0, 1) / 255


@pytest.mark.parametrize("deviation", [0.4, 1.0, 2.0])
def test_a_gaussian_is_torchvisions(deviation):
    images = noise(11, 3, 30, 41)  # more than are blurred at once
    found = blur_with(images, torch.full((11,), deviation))
    reach = round(3 * deviation)
    expected = reference.gaussian_blur(images, [2 * reach + 1] * 2, [deviation] * 2)
    inner = (..., slice(reach, -reach), slice(reach, -reach))  # it mirrors at the edge
    assert torch.allclose(found[inner], expected[inner], atol=1e-6)


def test_each_image_has_a_deviation_of_its_own():
    images = noise(3, 1, 20, 20)
    deviation = torch.tensor([0.5, 1.0, 3.0])
    together = blur_with(images, deviation)
    for image in range(3):
        alone = blur_with(images[image : image + 1], deviation[image : image + 1])
        assert torch.allclose(together[image], alone[0], atol=2e-3)  # cut at another place


def test_one_tone_stays_and_pixels_at_the_edge_repeat():
    images = torch.full((2, 3, 9, 5), 0.7)
    assert torch.allclose(gaussian_blur(images, generator=generator()), images, atol=1e-6)
    half = torch.zeros(1, 1, 1, 9)
    half[..., 5:] = 1.0
    found = blur_with(half, torch.tensor([1.0]))
    weights = torch.exp(-(torch.arange(-3.0, 4) ** 2) / 2)
    at = [float(weights[torch.arange(-3, 4) + i >= 5].sum() / weights.sum()) for i in range(9)]
    assert torch.allclose(found.flatten(), torch.tensor(at), atol=1e-6)


def test_at_224_pixels_it_is_pillows_with_radius_one_or_two():
    images = reference.gaussian_blur(noise(6, 3, 224, 224), [5, 5])
    blurred = gaussian_blur(images, generator=generator())
    radii, inner = set(), (..., slice(8, -8), slice(8, -8))  # its edge repeats before each box
    for image, result in zip(images, blurred, strict=True):
        distance = {
            radius: (in_pillow(image, ImageFilter.GaussianBlur(radius)) - result)[inner].abs().max()
            for radius in (1, 2)
        }
        radius = min(distance, key=distance.get)
        assert distance[radius] < 4 / 255  # it stacks box filters and rounds between them
        radii.add(radius)
    assert radii == {1, 2}


@pytest.mark.parametrize("size", [(224, 224), (225, 300)])
def test_the_ring_is_pillows_filter(size):
    image = (noise(1, 3, *size) * 255).round() / 255
    found = blur(image, generator=generator())[0]
    assert (found - in_pillow(image[0], ImageFilter.BLUR)).abs().max() < 0.51 / 255


def test_the_ring_shrinks_with_the_image():
    images = torch.zeros(1, 1, 32, 32)
    images[..., 10, 10] = 1.0
    found = blur(images, generator=generator())[0, 0, 9:12, 9:12]
    assert torch.allclose(found, torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]]) / 8)


@pytest.mark.parametrize("count", [1, 2, 5, 20])
@pytest.mark.parametrize(("height", "width"), [(30, 13), (9, 40), (4, 3)])
def test_filtering_in_strips_is_filtering(count, height, width):
    images, kernels = noise(count, 3, height, width), noise(count, 4, 3)
    for image, kernel, found in zip(images, kernels, filter_each(images, kernels), strict=True):
        expected = functional.conv2d(image.unsqueeze(1), kernel.view(1, 1, 4, 3)).squeeze(1)
        assert torch.allclose(found, expected, atol=1e-5)
