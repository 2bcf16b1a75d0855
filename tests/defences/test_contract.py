"""Every entry of DEFENCES says how to attack it honestly, and says it truly."""

import copy

import pytest
import torch
from torch import nn

from components.attacks.pgd import pgd
from components.choose import choose
from components.defences import DEFENCES
from components.defences.defended import Defended, honest_view, is_defended, is_randomised

# Beside its defaults, a defence is tried with these options.
VARIANTS = {
    "bit_depth": [{"bits": 8, "rounding": "nearest"}],
    "feature_pyramid_decoder": [
        {"bound": "spectral_tanh", "scale": 5.0, "denoise": "projected", "trunk": "separate"},
        {"head": "pooled", "middle": "restored", "trunk": "own_norms", "width": 8},
        {"passes": 1},
        {"restore": False},
    ],
    "lipschitz_head": [{"bound": "tanh", "scale": 5.0}, {"bound": "spectral"}],
    "random_resize_pad": [
        {"train_only": True},
        {"min_size": 1.0},
        {"min_size": 0.5},
        {"min_size": 0.5, "form": "published"},
        {"per_sample": True, "interpolation": "bilinear", "fill": 0.5},
        {"fixed": True},
    ],
    "smoothing": [{"filter": "gaussian", "backward": "identity"}, {"filter": "median"}],
}
# These leave the decision function of the model inside as it is.
TRANSPARENT = ("gradient_concealment", "random_resize_pad")
# These need convolutions, or logits that tanh does not saturate.
ON_BLOCKS = ("feature_pyramid_decoder", "lipschitz_head")
CASES = [
    pytest.param({"name": name, **options}, id="-".join([name, *options]))
    for name in DEFENCES
    for options in [{}, *VARIANTS.get(name, [])]
]
every_defence = pytest.mark.parametrize("choice", CASES)


class Blocks(nn.Sequential):
    """A network of two blocks, for what needs convolutions."""

    def __init__(self):
        super().__init__()
        for number, (before, width) in enumerate([(3, 6), (6, 8)], 1):
            convolution = nn.Conv2d(before, width, 3, stride=number, padding=1)
            self.add_module(f"block{number}", nn.Sequential(convolution, nn.BatchNorm2d(width)))
            self.add_module(f"elu{number}", nn.ELU())
        for layer in (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)):
            self.append(layer)


@pytest.fixture(scope="module")
def blocks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Blocks().eval()


@pytest.fixture
def bare(choice, lin400, blocks):
    """Give the model that a choice is put on."""
    return blocks if choice["name"] in ON_BLOCKS else lin400.model


def put_on(choice, model):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return choose(DEFENCES, choice)(model).eval()


def gradient_agrees(view, images, step):
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
        differences = (value(images + step * directions) - value(images - step * directions)) / 2
    derivatives = (gradient * directions).sum((1, 2, 3))
    return torch.cosine_similarity(derivatives.double(), differences.double(), dim=0).item()


@every_defence
@torch.no_grad()
def test_honest_view_decides_alike(choice, bare, lin400):
    """The same logits, or the same order where these were squashed.

    If the defence draws, the same mean log-probabilities over many draws.
    """
    defended = put_on(choice, bare)
    view, images = honest_view(defended), lin400.images[:20]
    if "tanh" in getattr(defended, "bound", ""):
        assert torch.equal(view(images).argsort(1), defended(images).argsort(1))
        return
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
def test_randomised_is_whether_two_passes_may_differ(choice, bare, lin400):
    defended = put_on(choice, bare)
    torch.manual_seed(0)
    images = lin400.images[:20]
    first = defended(images)
    differ = any(not torch.equal(defended(images), first) for _ in range(20))
    assert defended.randomised == is_randomised(nn.Sequential(defended)) == differ


@every_defence
@torch.no_grad()
def test_same_draws_same_logits(choice, bare, lin400):
    defended = put_on(choice, copy.deepcopy(bare)).train()
    torch.manual_seed(7)
    first = defended(lin400.images)
    torch.manual_seed(7)
    assert torch.equal(defended(lin400.images), first)


@every_defence
def test_gradient_of_the_honest_view_predicts_its_values(choice, lin400, blocks):
    """Along random directions it agrees with finite differences, also in a stack.

    Where pixels are rounded, they have to move by several levels to tell. No two pixels are alike,
    where a median has a kink, and none is near 0 or 1, beyond which a difference would look.
    """
    images = 0.1 + 0.8 * torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pyramid = "feature_pyramid_decoder"
    others = DEFENCES if choice.keys() == {"name"} else ()
    for other in [None, *others]:
        names = {choice["name"], other}
        model = blocks if names & {*ON_BLOCKS} else lin400.model
        stacks = [put_on(choice, model)]
        if other and names != {pyramid}:
            stacks = [put_on({"name": other}, stacks[0])]
            stacks.append(put_on(choice, put_on({"name": other}, model)))
        step, least = (0.5, 0.85) if "bit_depth" in names else (0.01, 0.99)
        for defended in stacks:
            found = gradient_agrees(honest_view(defended), images, step)
            assert found > least, (other, found)


@every_defence
def test_withstands_no_more_than_the_bare_model_where_it_never_draws(choice, lin400):
    defended = put_on(choice, lin400.model) if choice["name"] in TRANSPARENT else None
    if defended is None or defended.randomised or "fixed" in choice:
        return
    view, images, labels = honest_view(defended), lin400.images, lin400.labels
    for epsilon, robust in [(4 / 255, 0.7050), (8 / 255, 0.4400)]:
        attacked = pgd(view, images, labels, epsilon=epsilon, steps=10, loss="margin")
        assert lin400.robust_accuracy(attacked, defended) == pytest.approx(robust)


@every_defence
def test_weights_are_those_of_the_model_inside(choice, bare):
    """A decoder has more of its own."""
    defended = put_on(choice, bare)
    assert defended.inner is bare and is_defended(nn.Sequential(defended))
    inside = {f"inner.{name}" for name in bare.state_dict()}
    names = defended.state_dict().keys()
    assert {name for name in names if name.startswith("inner.")} == inside
    assert names == inside or choice["name"] == "feature_pyramid_decoder"


@every_defence
def test_gradients_reach_pixels_and_weights(choice, bare, lin400):
    defended = put_on(choice, copy.deepcopy(bare)).train()
    images = lin400.images[:20].clone().requires_grad_(True)
    nn.functional.cross_entropy(defended(images), lin400.labels[:20]).backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
    gradients = [p.grad for p in defended.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_defence_without_an_honest_view_cannot_be_attacked(lin400, blocks):
    class Secretive(Defended):
        def forward(self, images):
            return self.inner(images.round())

    secretive = Secretive(lin400.model)
    stacked = [put_on({"name": name}, Secretive(blocks)) for name in DEFENCES]
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
