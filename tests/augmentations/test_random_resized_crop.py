import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from components.augmentations.random_resized_crop import draw_boxes, random_resized_crop


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (100, 180), (30, 300), (1, 1), (3, 2)])
def test_boxes_lie_inside_and_have_allowed_areas_and_shapes(height, width):
    top, left, tall, wide = draw_boxes(500, height, width, 0.08, generator()).unbind(1)
    assert (tall >= 1).all() and (wide >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()
    if height >= 100:
        ratio, area = wide / tall, tall * wide / (height * width)
        assert ratio.min() > 0.73 and ratio.max() < 1.37
        assert area.min() > 0.07 and area.max() > 0.7


def test_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image, count = torch.empty(3, 120, 90), 4000
    theirs = v2.RandomResizedCrop(224)
    expected = [theirs.make_params([image]) for _ in range(count)]
    expected = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in expected])
    found = draw_boxes(count, 120, 90, 0.08, generator())
    for quantity in range(4):
        one, two = (boxes[:, quantity].double().sort().values for boxes in (found, expected))
        assert (one - two).abs()[:: count // 20].max() < 5  # pixels, at every twentieth part


def test_a_shape_that_never_fits_is_cut_from_the_middle():
    top, left, tall, wide = draw_boxes(50, 10, 300, 1.0, generator()).unbind(1)
    assert (tall == 10).all() and (wide == 13).all() and (top == 0).all() and (left == 143).all()


@pytest.mark.parametrize("size", [None, 12, 100])
def test_crops_are_those_of_torchvisions_resize(size):
    images = torch.rand(6, 3, 40, 50, generator=generator(1))
    crops, targets = random_resized_crop(images, torch.ones(6, 2), size=size, generator=generator())
    out = [size, size] if size else [40, 50]
    assert crops.shape == (6, 3, *out) and targets.shape == (6, 2)
    boxes = draw_boxes(6, 40, 50, 0.08, generator()).int().tolist()
    for image, (top, left, tall, wide), crop in zip(images, boxes, crops, strict=True):
        expected = reference.resized_crop(image, top, left, tall, wide, out, antialias=True)
        assert torch.allclose(crop, expected, atol=1e-6)


def test_the_logarithm_of_the_ratio_is_uniform():
    _, _, tall, wide = draw_boxes(3000, 10_000, 10_000, 0.08, generator()).unbind(1)
    small = (tall * wide) < 0.5e8  # where every ratio fits
    drawn = (wide / tall).log()[small] / math.log(4 / 3)
    assert abs(drawn.mean()) < 0.06 and abs(drawn.std() - 1 / 3**0.5) < 0.04


@pytest.mark.parametrize("option", [{"smallest_area": 0.0}, {"smallest_area": 1.1}, {"size": 0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        random_resized_crop(
            torch.zeros(1, 1, 4, 4), torch.ones(1, 1), **option, generator=generator()
        )
