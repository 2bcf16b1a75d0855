"""Every entry of DEFENCES says how to attack it honestly, and says it truly."""

import pytest
import torch
from torch import nn

from components.attacks.pgd import pgd
from components.choose import choose
from components.defences import DEFENCES
from components.defences.defended import Defended, honest_view, is_defended, is_randomised

# Beside its defaults, a defence is tried with these options.
VARIANTS = {"random_resize_pad": [{"train_only": True}, {"min_size": 1.0}, {"min_size": 0.5}]}
CASES = [
    pytest.param({"name": name, **options}, id="-".join([name, *options]))
    for name in DEFENCES
    for options in [{}, *VARIANTS.get(name, [])]
]
every_defence = pytest.mark.parametrize("choice", CASES)


def put_on(choice, model):
    return choose(DEFENCES, choice)(model).eval()


def gradient_agrees(view, images):
    """Cosine between derivatives along random directions and finite differences, same draws."""

    def value(pixels):
        torch.manual_seed(0)
        return view(pixels)[:, 0] - view(pixels)[:, 1]

    leaf = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    generator = torch.Generator().manual_seed(1)
    directions = nn.functional.normalize(
        torch.randn(images.shape, generator=generator), dim=(1, 2, 3)
    )
    with torch.no_grad():
        differences = (value(images + 0.01 * directions) - value(images - 0.01 * directions)) / 0.02
    derivatives = (gradient * directions).sum((1, 2, 3))
    return torch.cosine_similarity(derivatives.double(), differences.double(), dim=0).item()


@every_defence
@torch.no_grad()
def test_honest_view_decides_alike(choice, lin400):
    """The same logits; if the defence draws, the same mean log-probabilities over many draws."""
    defended = put_on(choice, lin400.model)
    view, images = honest_view(defended), lin400.images[:50]
    if not defended.randomised:
        assert (view(images) - defended(images)).abs().max() <= 1e-5
        return
    torch.manual_seed(0)
    as_is = torch.stack([defended(images).log_softmax(1) for _ in range(400)])
    honest = torch.stack([view(images) for _ in range(100)])
    error = (as_is.var(0) / 400 + honest.var(0) / 100).sqrt()
    assert ((as_is.mean(0) - honest.mean(0)).abs() <= 5 * error + 1e-5).all()


@every_defence
@torch.no_grad()
def test_randomised_is_whether_two_passes_may_differ(choice, lin400):
    defended = put_on(choice, lin400.model)
    torch.manual_seed(0)
    first = defended(lin400.images)
    differ = any(not torch.equal(defended(lin400.images), first) for _ in range(20))
    assert defended.randomised == is_randomised(nn.Sequential(defended)) == differ


@every_defence
@torch.no_grad()
def test_same_draws_same_logits(choice, lin400):
    defended = put_on(choice, lin400.model).train()
    torch.manual_seed(7)
    first = defended(lin400.images)
    torch.manual_seed(7)
    assert torch.equal(defended(lin400.images), first)


@every_defence
def test_gradient_of_the_honest_view_predicts_its_values(choice, lin400):
    """Along random directions it agrees with finite differences, also in a stack."""
    alone = put_on(choice, lin400.model)
    stacks = [put_on({"name": other}, alone) for other in DEFENCES]
    stacks += [put_on(choice, put_on({"name": other}, lin400.model)) for other in DEFENCES]
    for defended in [alone, *stacks]:
        assert gradient_agrees(honest_view(defended), lin400.images[:50]) > 0.99


@every_defence
def test_withstands_no_more_than_the_bare_model_where_it_never_draws(choice, lin400):
    defended = put_on(choice, lin400.model)
    if defended.randomised:
        return
    view, images, labels = honest_view(defended), lin400.images, lin400.labels
    for epsilon, robust in [(4 / 255, 0.7050), (8 / 255, 0.4400)]:
        attacked = pgd(view, images, labels, epsilon=epsilon, steps=10, loss="margin")
        assert lin400.robust_accuracy(attacked, defended) == pytest.approx(robust)


@every_defence
def test_weights_are_those_of_the_model_inside(choice, lin400):
    defended = put_on(choice, lin400.model)
    assert defended.inner is lin400.model and is_defended(nn.Sequential(defended))
    inside = {f"inner.{name}": value for name, value in lin400.model.state_dict().items()}
    assert defended.state_dict().keys() == inside.keys()


def test_a_defence_without_an_honest_view_cannot_be_attacked(lin400):
    class Secretive(Defended):
        def forward(self, images):
            return self.inner(images.round())

    secretive = Secretive(lin400.model)
    stacked = [DEFENCES[name](secretive) for name in DEFENCES]
    for model in [secretive, *stacked]:
        with pytest.raises(NotImplementedError, match="Secretive does not say how to attack it"):
            honest_view(model)


def test_a_bare_model_is_its_own_honest_view(lin400):
    assert honest_view(lin400.model) is lin400.model
    assert not is_defended(lin400.model) and not is_randomised(lin400.model)


@pytest.mark.parametrize("name", DEFENCES)
def test_unknown_options_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' has no option 'height'"):
        choose(DEFENCES, {"name": name, "height": 3})


def test_a_defence_inside_a_plain_module_has_to_be_reached():
    hidden = nn.Sequential(DEFENCES["gradient_concealment"](nn.Flatten()))
    with pytest.raises(ValueError, match="holds a defence"):
        honest_view(hidden)
