"""Transfer is the union of attacks on other models, and sees behind masked gradients."""

from functools import partial

import pytest
import torch
from torch import nn

from components.attacks.losses import margin
from components.attacks.pgd import pgd
from components.attacks.transfer import transfer

climb = partial(pgd, steps=10, loss="margin")


def rounded(model):
    """The model behind an input of 16 levels, through which no gradient comes."""
    return lambda images: model((images * 15).round() / 15 + 0 * images)


@pytest.fixture
def surrogates(lin400):
    """Two models that each know half of the pixels."""
    found = []
    for half in (slice(0, 96), slice(96, 192)):
        layer = nn.Linear(192, 4)
        weight = torch.zeros(4, 192)
        weight[:, half] = lin400.model[1].weight.detach()[:, half]
        layer.weight.data, layer.bias.data = weight, lin400.model[1].bias.detach() / 2
        found.append(nn.Sequential(nn.Flatten(), layer))
    return found


def margins(model, adversarial, labels):
    with torch.no_grad():
        return margin(model(adversarial), labels)


def test_it_reaches_what_the_model_hides(lin400):
    model, images, labels = lin400
    hidden = rounded(model)
    options = {"epsilon": 8 / 255, "attack": climb}
    itself = transfer(hidden, images, labels, surrogates=[hidden], **options)
    base = transfer(hidden, images, labels, surrogates=[model], **options)
    assert lin400.robust_accuracy(itself, hidden) == pytest.approx(0.855, abs=0.01)
    assert lin400.robust_accuracy(base, hidden) == pytest.approx(0.49, abs=0.005)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 16 / 255), ("l2", 0.7), ("l1", 4.0)])
def test_every_image_is_the_worst_of_the_surrogates(norm, epsilon, surrogates, lin400):
    model, images, labels = lin400
    options = {"attack": partial(climb, start="clean"), "epsilon": epsilon, "norm": norm}
    alone = [transfer(*lin400, surrogates=[each], **options) for each in surrogates]
    both = transfer(*lin400, surrogates=surrogates, **options)
    worst = torch.stack([margins(model, each, labels) for each in alone]).amax(0)
    assert torch.equal(margins(model, both, labels), worst)
    robust = [lin400.robust_accuracy(each) for each in (both, *alone, images)]
    assert robust[0] < min(robust[1:3]) and max(robust[1:3]) < robust[3]


def test_the_model_itself_as_surrogate_is_the_attack(lin400):
    found = transfer(*lin400, surrogates=[lin400.model], attack=climb, epsilon=8 / 255)
    assert lin400.robust_accuracy(found) == pytest.approx(0.44)


def test_seeds_differ_between_surrogates_and_images_are_alike_in_any_company(lin400):
    drawn = []

    def attack(model, images, labels, *, epsilon, norm, seed):
        drawn.append(seed)
        return climb(model, images, labels, epsilon=epsilon, norm=norm, seed=seed)

    model, images, labels = lin400
    seeds = torch.arange(50, 60)
    options = {"surrogates": [model, model], "attack": attack, "epsilon": 0.02}
    together = transfer(model, images[:10], labels[:10], seed=seeds, **options)
    assert not (drawn[0] == drawn[1]).any() and drawn[0].unique().numel() == 10
    half = transfer(model, images[5:10], labels[5:10], seed=seeds[5:], **options)
    assert torch.allclose(half, together[5:], atol=1e-6)


def test_models_stay_as_they_were_and_nothing_is_asked_about_nothing(network, lin400):
    before = network.training, [module.training for module in network.modules()]
    images, labels = lin400.images[:4, :, :4, :4], lin400.labels[:4]
    transfer(network, images, labels, surrogates=[network], attack=climb, epsilon=0.1)
    assert before == (network.training, [module.training for module in network.modules()])
    network.append(nn.Flatten(0))  # whose answer to no images is of another shape
    options = {"surrogates": [network], "attack": climb, "epsilon": 0.1}
    empty = transfer(network, images[:0], labels[:0], **options)
    assert empty.shape == (0, 3, 4, 4)


def test_a_surrogate_is_needed(lin400):
    with pytest.raises(ValueError, match="surrogates must hold at least one model, got none"):
        transfer(*lin400, surrogates=[], attack=climb, epsilon=0.1)
