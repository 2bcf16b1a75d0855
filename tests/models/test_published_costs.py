"""Reference values of Madaan et al., 2020, for widths published with Lee et al., 2018."""

import pytest
import torch

from components.models.costs import count_flops, count_memory
from components.models.published_costs import published_costs
from components.models.vgg import FULL_WIDTHS as VGG_WIDTHS
from components.models.vgg import vgg16

LENET_WIDTHS = (20, 50, 800, 500)
VGG_10 = (64, 64, 128, 126, 251, 174, 41, 87, 81, 13, 118, 110, 25, 25, 69)
VGG_100 = (64, 64, 128, 128, 255, 255, 134, 213, 152, 25, 269, 256, 47, 47, 188)


def ratios(backbone, full, widths, **options):
    """Give memory in percent, how many times fewer operations, and percent of closed units."""
    before = published_costs(backbone, full, **options)
    after = published_costs(backbone, widths, **options)
    memory, flops = (after[cost] / before[cost] for cost in ("memory", "flops"))
    return 100 * memory, 1 / flops, 100 - 100 * sum(widths) / sum(full)


def test_lenet():
    assert published_costs("lenet5", LENET_WIDTHS) == {"flops": 4_615_940, "memory": 477_410}
    narrow = (13, 25, 156, 54)
    assert published_costs("lenet5", narrow) == {"flops": 1_450_558, "memory": 52_678}
    for widths, expected in (
        (narrow, (11.034, 3.182, 81.898)),
        ((13, 20, 99, 30), (9.496, 3.751, 88.175)),
    ):
        assert ratios("lenet5", LENET_WIDTHS, widths) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("classes", "counts", "flops", "memory"),
    [
        (10, 13, 627_329_546, 19_881_538),
        (10, 1, 627_329_546, 16_655_818),
        (100, 13, 627_421_796, 20_481_748),
        (100, 1, 627_421_796, 16_701_988),
    ],
)
def test_full_vgg(classes, counts, flops, memory):
    found = published_costs("vgg16", VGG_WIDTHS, num_classes=classes, dense_counts=counts)
    assert found == {"flops": flops, "memory": memory}


@pytest.mark.parametrize(
    ("classes", "widths", "counts", "expected"),
    [
        (10, VGG_10, 13, (13.638, 2.156, 73.780)),
        (10, VGG_10, 1, (16.096, 2.156, 73.780)),
        (100, VGG_100, 13, (22.969, 1.698, 57.603)),
        (100, VGG_100, 1, (26.155, 1.698, 57.603)),
    ],
)
def test_pruned_vgg(classes, widths, counts, expected):
    found = ratios("vgg16", VGG_WIDTHS, widths, num_classes=classes, dense_counts=counts)
    assert found == pytest.approx(expected, abs=6e-4)


def test_counts_of_the_network_itself_are_the_formulas_but_for_the_logits():
    with torch.device("meta"):
        network = vgg16(10, 3)
        # The formula counts an activation of the logits, and the network has none.
        assert count_flops(network, (3, 32, 32)) == 627_329_546 - 10
        assert count_memory(network, (3, 32, 32)) == 16_655_818


def test_other_networks_have_no_formula():
    with pytest.raises(ValueError, match="for lenet5 with 4 and vgg16 with 15 gates, got resnet18"):
        published_costs("resnet18", LENET_WIDTHS)
