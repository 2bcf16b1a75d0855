"""Copies to search on agree with their models, and what they find is held to the model itself."""

import inspect
from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from components.attacks.acceleration import (
    bfloat16_pays,
    search_copy,
    searched,
    searched_nearest,
)
from components.attacks.carlini_wagner import carlini_wagner
from components.attacks.deepfool import deepfool
from components.attacks.fast_minimum_norm import fmn
from components.attacks.geometry import distance
from components.attacks.pgd import pgd

CPU_FLAGS = Path("/proc/cpuinfo")
both_precisions = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


def lived_in(model):
    """BatchNorm with statistics and weights of its own, as after training."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if getattr(module, "track_running_stats", False):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.2, generator=generator)
    return model.eval()


def built(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return lived_in(build())


def pixels(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def state(model):
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    modules = {name: (id(m), m.training) for name, m in model.named_modules()}
    parameters = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    return tensors, modules, parameters


def same(first, second):
    equal = all(torch.equal(first[0][name], value) for name, value in second[0].items())
    return equal and first[1:] == second[1:]


def input_gradient(model, images):
    images = images.clone().requires_grad_(True)
    return torch.autograd.grad(model(images).square().sum(), images)[0]


class Residual(nn.Module):
    def __init__(self, leaking=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.dense, self.leaking = nn.Linear(6, 5), leaking

    def forward(self, images):
        before = self.first(images)
        shortcut = self.norm1(before)
        deep = self.norm2(self.second(shortcut.relu())) + shortcut
        if self.leaking:  # reads what the convolution wrote before the normalisation
            deep = deep + before
        return self.dense(deep.relu().mean((2, 3)))


class Shared(nn.Module):
    """One convolution with a normalisation for each of its two calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.dense = (nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5))
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, images):
        for norm in self.norms:
            images = norm(self.conv(images)).relu()
        return self.dense(images.mean((2, 3)))


class InPlace(nn.Module):
    """Changes the output of the convolution before it is normalised, under the same name."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.dense = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5))

    def forward(self, images):
        return self.dense(self.norm(self.conv(images).relu_()).mean((2, 3)))


def sequence(*layers, channels):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def timm_model(name):
    import timm

    return timm.create_model(name, num_classes=5)


MODELS = {  # how to build it, and how many BatchNorms can be folded
    "after a convolution": (
        lambda: sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), channels=4),
        1,
    ),
    "without bias": (
        lambda: sequence(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), channels=4),
        1,
    ),
    "without weights": (
        lambda: sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), channels=4),
        1,
    ),
    "in groups": (
        lambda: sequence(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), channels=6),
        1,
    ),
    "before a convolution": (
        lambda: sequence(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), channels=4),
        0,
    ),
    "after a dense layer": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(192, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5)
        ),
        1,
    ),
    "at both ends of a shortcut": (Residual, 2),
    "read around the normalisation": (lambda: Residual(leaking=True), 0),
    "convolution shared": (Shared, 0),
    "changed in between": (InPlace, 0),
    "transposed": (
        lambda: sequence(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), channels=4),
        0,
    ),
    "batch statistics": (
        lambda: sequence(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), channels=4
        ),
        0,
    ),
    "none at all": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 0),
}
every_model = pytest.mark.parametrize(("build", "folded"), MODELS.values(), ids=MODELS)


@every_model
def test_a_folded_copy_is_the_same_function(build, folded):
    model = built(build)
    images = pixels(9, 3, 8, 8)
    found = search_copy(model, images[:4], precision="float32")
    assert (found.folded, found.precision) == (folded, "float32")
    assert torch.allclose(found(images), model(images), atol=1e-5)
    expected = input_gradient(model, images)
    assert torch.allclose(input_gradient(found, images), expected, rtol=1e-3, atol=1e-5)
    assert found.error < 1e-4 and found.agreement == 1


@pytest.mark.parametrize(
    ("name", "folded"), [("resnet18", 20), ("mobilenetv3_small_050", 34), ("resnetv2_18", 8)]
)
@both_precisions
def test_networks_of_timm(name, folded, precision):
    """Residual; with activations inside the normalisation; normalised before the convolution."""
    model, images = built(partial(timm_model, name)), pixels(4, 3, 64, 64)
    found = search_copy(model, images, precision=precision)
    assert (found.folded, found.precision) == (folded, precision)
    expected = model(images)
    limit = {"float32": 1e-4, "bfloat16": 0.1}[precision] * expected.std()
    assert (found(images) - expected).abs().max() < limit
    gradients = [input_gradient(each, images).flatten(1) for each in (found, model)]
    assert functional.cosine_similarity(*gradients).min() > (0.95, 0.9999)[precision == "float32"]


@both_precisions
def test_the_model_stays_as_it_was_and_the_copy_is_its_own(precision, network, batch):
    before = state(network)
    torch.manual_seed(3)
    numbers = torch.get_rng_state()
    found = search_copy(network, batch[0], precision=precision)
    assert found.folded == 1 and torch.equal(torch.get_rng_state(), numbers)
    assert same(state(network), before)
    assert all(parameter.grad is not None for parameter in (network[0].weight, network[5].weight))
    assert not any(module.training for module in found.modules())
    assert not any(p.requires_grad or p.grad is not None for p in found.parameters())
    expected = found(batch[0])
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert torch.equal(found(batch[0]), expected)


def test_bfloat16_is_bfloat16_and_answers_in_float32():
    model, images = built(Residual), pixels(4, 3, 8, 8)
    found, dtypes = search_copy(model, images, precision="bfloat16"), []
    found.network.second.register_forward_hook(lambda *data: dtypes.append(data[2].dtype))
    logits = found(images)
    assert dtypes == [torch.bfloat16] and logits.dtype == torch.float32
    assert 1e-4 < found.error < 0.05 and found.agreement >= 0.75
    assert input_gradient(found, images).dtype == torch.float32


class Normalise(nn.Module):
    def forward(self, images):
        return (images - 0.9) / 0.01


def test_pixels_are_normalised_before_they_are_rounded():
    """Near 0.9, neighbours of bfloat16 are as far apart as those among 8-bit pixels."""
    model = built(lambda: nn.Sequential(Normalise(), nn.Flatten(), nn.Linear(192, 5)))
    images = 0.9 + pixels(16, 3, 8, 8) / 100
    found = search_copy(model, images, precision="bfloat16")
    rounded = model(images.bfloat16().float())
    error = (rounded - model(images)).abs().max() / model(images).std()
    assert found.precision == "bfloat16" and found.error < 0.03 < 0.1 < error


class Picky(nn.Module):
    def forward(self, features):
        if features.dtype != torch.float32:
            raise RuntimeError("not implemented for 'BFloat16'")
        return features


class Cancelling(nn.Module):
    def forward(self, features):
        return (features + 1000) - 1000


@pytest.mark.parametrize("layer", [Picky, Cancelling])
def test_what_bfloat16_cannot_do_is_done_in_float32(layer):
    model = built(lambda: sequence(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), layer(), channels=4))
    found = search_copy(model, pixels(4, 3, 8, 8), precision="bfloat16")
    assert (found.folded, found.precision) == (1, "float32") and found.error < 1e-4


class Drawing(nn.Module):
    """Crops at random sizes, with arithmetic on plain numbers that a tracer would freeze."""

    def __init__(self):
        super().__init__()
        self.inner = Residual()

    def forward(self, images):
        size = int(torch.randint(3, 9, ()))
        noise = 3 * torch.randn_like(images[..., :size, :])
        return self.inner(images[..., :size, :] + noise)


@both_precisions
def test_a_model_that_draws_goes_on_drawing(precision):
    model, images = built(Drawing), pixels(4, 3, 8, 8)
    found = search_copy(model, images, precision=precision)
    assert (found.folded, found.precision) == (2, precision)
    told = []
    for seed in range(5):
        for each in (model, found):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                told.append(each(images))
    answers = torch.stack(told).view(5, 2, -1)
    assert (answers[:, 0] - answers[:, 1]).abs().max() < 0.1 * answers.std()
    assert (answers[1:] - answers[:-1]).abs().amax((1, 2)).min() > 0.01


class Counting(nn.Module):
    """Answers something else every time, whatever the seed."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return images.flatten(1)[:, :5] + self.calls


def test_no_copy_of_what_does_not_repeat_itself():
    assert search_copy(Counting(), pixels(4, 3, 8, 8), precision="float32") is None


def test_auto_goes_by_the_processor():
    found = search_copy(built(Residual), pixels(4, 3, 8, 8))
    pays = bfloat16_pays(torch.device("cpu"))
    assert found.precision == ("bfloat16" if pays else "float32")
    assert not bfloat16_pays(torch.device("meta"))


@pytest.mark.skipif(not CPU_FLAGS.exists(), reason="the system does not list what its CPU can do")
def test_bfloat16_pays_where_the_processor_multiplies_it():
    flags = CPU_FLAGS.read_text(encoding="utf-8").split()
    assert bfloat16_pays(torch.device("cpu")) is bool({"avx512_bf16", "amx_tile"} & {*flags})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"example": torch.zeros(0, 3, 8, 8)}, "at least one image, got none"),
        ({"precision": "half"}, "precision must be auto, float32 or bfloat16, got 'half'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        search_copy(Residual(), **{"example": pixels(4, 3, 8, 8), **options})


class Attack:
    """PGD that remembers which images it was asked to attack."""

    def __init__(self):
        self.asked = []

    def __call__(self, model, images, labels, *, seed, epsilon=8 / 255):
        self.asked.append(len(images))
        options = {"epsilon": epsilon, "loss": "margin", "keep": "first", "steps": 10}
        return pgd(model, images, labels, seed=seed, **options)


@both_precisions
@pytest.mark.parametrize(("step", "robust"), [(4, 0.7050), (8, 0.4400)])
def test_the_exact_number_is_found_on_a_copy(step, robust, precision, lin400):
    found = search_copy(lin400.model, lin400.images[:32], precision=precision)
    assert found.precision == precision
    attack = Attack()
    adversarial = searched(attack, found)(*lin400, epsilon=step / 255, seed=0)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)
    assert attack.asked[0] == 400 and sum(attack.asked[1:]) < 40


def test_a_copy_that_is_the_model_is_attacked_once(lin400):
    attack = Attack()
    adversarial = searched(attack, lin400.model)(*lin400, seed=3)
    assert attack.asked == [400]
    assert torch.equal(adversarial, Attack()(*lin400, seed=3))


@pytest.mark.parametrize(
    "epsilon",
    [8 / 255, torch.linspace(0, 0.1, 400), torch.linspace(0, 0.1, 192).view(3, 8, 8)],
    ids=["number", "per image", "per pixel"],
)
@pytest.mark.parametrize("seed", [7, torch.arange(100, 500)], ids=["seed", "seeds"])
def test_what_only_the_copy_gets_wrong_is_attacked_again(epsilon, seed, lin400):
    """The copy never says class 2, so on these images its attack ends before it begins."""
    model, images, labels = lin400

    def biased(images):
        logits = model(images)
        never = torch.tensor([0.0, 0.0, 1.0, 0.0]) * (logits.argmax(1) == 2)[:, None]
        return logits - 100 * never

    attack, chosen = Attack(), labels == 2
    adversarial = searched(attack, biased)(model, images, labels, epsilon=epsilon, seed=seed)
    on_model = Attack()(model, images, labels, epsilon=epsilon, seed=seed)
    right = model(Attack()(biased, images, labels, epsilon=epsilon, seed=seed)).argmax(1) == labels
    again = chosen & right
    assert attack.asked == [400, int(again.sum())] and attack.asked[1] > 50
    assert torch.equal(adversarial[again], on_model[again])


@pytest.mark.parametrize(
    ("claimed", "true", "attacks"), [(-0.03, -0.05, 2), (-0.05, -0.03, 2), (-0.2, -0.21, 1)]
)
def test_a_failure_too_close_to_tell_is_attacked_again(claimed, true, attacks, one_pixel):
    image, label, attack = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), Attack()
    model, found = (one_pixel(lambda x, m=m: 0 * x + m) for m in (true, claimed))
    searched(attack, found)(model, image, label, seed=0)
    assert len(attack.asked) == attacks


@pytest.mark.parametrize("search", [searched, searched_nearest])
def test_an_empty_batch_asks_no_model(search):
    images, labels = torch.empty(0, 3, 4, 4), torch.empty(0, dtype=torch.int64)
    attack = search(partial(pgd, epsilon=0.1), pytest.fail)
    assert attack(pytest.fail, images, labels).shape == images.shape


@both_precisions
@pytest.mark.parametrize("attack", [carlini_wagner, deepfool, fmn])
def test_the_nearest_images_are_the_model_s_own(attack, precision, lin400):
    model, images, labels = lin400
    found = search_copy(model, images[:32], precision=precision)
    options = {"epsilon": None, "norm": "l2", "steps": 50}
    if attack is carlini_wagner:
        options |= {"search_steps": 3, "step_size": 0.05, "constant": 1.0}
    on_copy = searched_nearest(partial(attack, **options), found)(*lin400, seed=0)
    on_model = attack(*lin400, **options, seed=0)
    right = model(images).argmax(1) == labels
    assert torch.equal(on_copy[~right], images[~right])
    assert bool((model(on_copy).argmax(1) != labels).all())
    sizes = [distance(each - images, "l2")[right] for each in (on_copy, on_model)]
    assert sizes[0].median() < 1.01 * sizes[1].median()


def test_what_a_copy_does_not_give_away_is_looked_for_on_the_model(lin400):
    """The copy says the label whatever it sees, or says it is wrong already."""
    model, images, labels = lin400
    on_model = fmn(model, images, labels, epsilon=None, steps=20, seed=0)
    for sign in (1.0, -1.0):
        stubborn = partial(_always, logits=sign * functional.one_hot(labels, 4).float())
        attack = partial(fmn, epsilon=None, steps=20)
        on_copy = searched_nearest(attack, stubborn)(model, images, labels, seed=0)
        assert torch.equal(on_copy, on_model)


def _always(images, *, logits):
    return logits + 0 * images.flatten(1).sum(1, keepdim=True)


def test_options_can_still_be_read_off():
    attack = searched(partial(pgd, epsilon=0.1), nn.Identity())
    assert inspect.signature(attack) == inspect.signature(partial(pgd, epsilon=0.1))


@pytest.fixture(scope="module")
def digits():
    """A small network trained for a moment on real digits, with 400 that it has not seen."""
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target)

    def network():
        convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        norms = nn.BatchNorm2d(16), nn.BatchNorm2d(32)
        layers = (convolutions[0], norms[0], nn.ReLU(), convolutions[1], norms[1], nn.ReLU())
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))

    model = built(network).train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(6):
        for rows in torch.randperm(1397, generator=generator).split(100):
            attacked = pgd(
                model, images[rows], labels[rows], epsilon=0.1, steps=2, keep="last", seed=epoch
            )
            optimiser.zero_grad()
            functional.cross_entropy(model(attacked), labels[rows]).backward()
            optimiser.step()
    return model.eval(), images[1397:], labels[1397:]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@both_precisions
def test_a_copy_finds_as_much_on_a_trained_network(precision, norm, digits):
    model, images, labels = digits
    options = {"epsilon": {"linf": 0.15, "l2": 0.8}[norm], "norm": norm, "keep": "first"}
    found = search_copy(model, images[:64], precision=precision)
    assert (found.folded, found.precision) == (2, precision)
    on_model = pgd(model, images, labels, **options)
    on_copy = searched(pgd, found)(model, images, labels, **options)
    standing = [(model(each).argmax(1) == labels) for each in (images, on_model, on_copy)]
    robust = [float(each.double().mean()) for each in standing]
    assert robust[0] > 0.9 and 0.1 < robust[1] < 0.8
    assert robust[2] == pytest.approx(robust[1], abs=0.01)
    # What the copy alone believed would be counted wrongly: it is not what is returned.
    assert not (standing[2] & (found(on_copy).argmax(1) != labels) & ~standing[1]).any()
