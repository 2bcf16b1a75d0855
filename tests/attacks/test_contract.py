"""Every entry of ATTACKS keeps to its budget, leaves the model alone and is reproducible."""

import copy
import inspect
import math
from functools import partial
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import jaxtyping
import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.attacks.geometry import NORMS, distance
from components.choose import choose

EPSILON = {"linf": 8 / 255, "l2": 0.5, "l1": 2.0}
# Options in place of defaults that take too long for a test.
QUICK: dict[str, dict[str, object]] = {
    "apgd": {"steps": 10},
    "apgd_targeted": {"steps": 10},
    "carlini_wagner": {"steps": 60, "search_steps": 4, "step_size": 0.05, "constant": 1.0},
    "fmn": {"steps": 30},
    "mm": {"steps": 10},
    "fab": {"steps": 5, "targets": 3},
    "hop_skip_jump": {"steps": 4, "directions": 25},
    "spsa": {"steps": 10, "samples": 32},
    "square": {"queries": 100, "rescale_schedule": True},
}
# By how much an attack must undercut random noise on the linear problem, if not by 0.2.
LEAD: dict[str, float] = {"hop_skip_jump": 0.03, "spsa": 0.1, "square": 0.07}
# Beside its defaults, an attack is tried with these options.
VARIANTS = {
    "apgd": [{"keep": "best", "restarts": 2, "steps": 7}, {"draws": 2, "loss": "dlr", "steps": 7}],
    "apgd_targeted": [{"keep": "best", "steps": 4, "targets": 3}, {"batch_size": 4, "steps": 7}],
    "bim": [{"keep": "first", "steps": 4}],
    "carlini_wagner": [{"confidence": 0.1, "abort_early": False, "steps": 25}],
    "deepfool": [{"candidates": 2, "steps": 5}],
    "fab": [{"targets": None, "restarts": 2, "steps": 3}, {"batch_size": 9, "steps": 3}],
    "fgsm": [{"loss": "cross_entropy"}],
    "fmn": [{"draws": 2, "gamma": 0.1, "steps": 10}],
    "mim": [
        {"keep": "first"},
        {"keep": "last", "lookahead": True},
        {"diversity": 0.7, "draws": 2},
    ],
    "pgd": [
        {"keep": "first", "restarts": 2},
        {"keep": "last"},
        {"start": "clean", "step_size": 0.05},
    ],
    "random_noise": [{"trials": 1}],
    "hop_skip_jump": [{"queries": 300}, {"batch_size": 3, "steps": 1}],
    "spsa": [{"update": "sign", "samples": 6}, {"batch_size": 4, "steps": 2}],
    "square": [{"parity": True, "queries": 20}, {"batch_size": 3, "queries": 20}],
}
CASES = [
    pytest.param({"name": name, **options}, id="-".join(map(str, [name, *options.values()])))
    for name in ATTACKS
    for options in [{}, *VARIANTS.get(name, [])]
]


def norms_of(name):
    """Those of the Literal that annotates the attack's norm, or else all."""
    hint = get_type_hints(ATTACKS[name])["norm"]
    return get_args(hint) if get_origin(hint) is Literal else NORMS


def is_minimum_norm(name):
    """Whether the attack looks for the nearest adversarial image when it is given no epsilon."""
    return NoneType in get_args(get_type_hints(ATTACKS[name])["epsilon"])


def in_every_norm(cases):
    return [
        pytest.param(*case.values, norm, id=f"{case.id}-{norm}")
        for case in cases
        for norm in norms_of(case.values[0]["name"])
    ]


NAMES = [pytest.param({"name": name}, id=name) for name in ATTACKS]
every_attack = pytest.mark.parametrize("choice", CASES)
every_attack_in_every_norm = pytest.mark.parametrize(("choice", "norm"), in_every_norm(CASES))
every_name = pytest.mark.parametrize("choice", NAMES)
every_name_in_every_norm = pytest.mark.parametrize(("choice", "norm"), in_every_norm(NAMES))
every_minimum_norm = pytest.mark.parametrize(
    ("choice", "norm"),
    in_every_norm(case for case in CASES if is_minimum_norm(case.values[0]["name"])),
)


@pytest.fixture
def batch(network, batch):
    """The images with labels that the network gets right, so that there is something to attack."""
    model = copy.deepcopy(network).eval()
    with torch.no_grad():
        return batch[0], model(batch[0]).argmax(1)


def chosen(choice):
    options = {**QUICK.get(choice["name"], {}), **choice}
    return choose(ATTACKS, options, given=("epsilon", "norm", "seed"))


def state(model):
    return {
        "weights and buffers": {k: v.clone() for k, v in model.state_dict().items()},
        "gradients": {
            k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()
        },
        "trainable": {k: p.requires_grad for k, p in model.named_parameters()},
        "training": {k: m.training for k, m in model.named_modules()},
        "hooks": {k: len(m._forward_hooks) for k, m in model.named_modules()},
    }


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@every_attack_in_every_norm
def test_in_ball_and_box(choice, norm, network, batch):
    images, labels = batch
    before = images.clone()
    attack = chosen(choice)
    adversarial = attack(network, images, labels, epsilon=EPSILON[norm], norm=norm)
    assert adversarial.shape == images.shape and adversarial.dtype == torch.float32
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert distance(adversarial - images, norm).max() <= EPSILON[norm] * (1 + 1e-5) + 1e-6
    assert not torch.equal(adversarial, images)
    assert torch.equal(images, before)
    assert not adversarial.requires_grad and adversarial.data_ptr() != images.data_ptr()


@every_attack_in_every_norm
def test_same_seed_same_images(choice, norm, network, batch):
    attack = partial(chosen(choice), network, *batch, epsilon=EPSILON[norm], norm=norm)
    torch.manual_seed(1)
    state_before = torch.get_rng_state()
    first = attack(seed=3)
    assert torch.equal(torch.get_rng_state(), state_before), "the global generator was used"
    torch.manual_seed(2)
    assert torch.equal(attack(seed=3), first)


@every_attack
def test_model_stays_as_it_was(choice, network, batch):
    before = state(network)
    chosen(choice)(network, *batch, epsilon=0.1)
    assert same(state(network), before)


@every_attack
def test_model_stays_as_it_was_after_an_error_inside_it(choice, network, batch):
    class Failing(nn.Module):
        def forward(self, _):
            raise KeyError("inside")

    network.append(Failing())
    before = state(network)
    with pytest.raises(KeyError, match="inside"):
        chosen(choice)(network, *batch, epsilon=0.1)
    assert same(state(network), before)


@every_attack
def test_model_is_asked_in_evaluation_mode_with_frozen_weights(choice, network, batch):
    """Gradients of weights would cost half as much again and be thrown away."""
    seen = []
    network.register_forward_pre_hook(lambda *_: seen.append(state(network)))
    chosen(choice)(network, *batch, epsilon=0.1)
    assert seen
    assert not any(any(s["training"].values()) or any(s["trainable"].values()) for s in seen)


@every_attack_in_every_norm
def test_an_image_is_attacked_alike_in_any_company(choice, norm, lin400):
    if "loss" in inspect.signature(ATTACKS[choice["name"]]).parameters:
        choice = {**choice, "loss": "margin"}  # whose gradient rounds alike in any batch
    weight, bias = (parameter.detach() for parameter in lin400.model[1].parameters())

    def model(images):
        """Add every image up alone: a product of matrices rounds by the size of the batch."""
        return (images.flatten(1)[:, None] * weight).sum(2) + bias

    images, labels, seeds = lin400.images[:9], lin400.labels[:9], torch.arange(100, 109)
    attack = partial(chosen(choice), model, epsilon=EPSILON[norm], norm=norm)
    together = attack(images, labels, seed=seeds)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = attack(images[shuffled], labels[shuffled], seed=seeds[shuffled])
    alone = [attack(images[i : i + 1], labels[i : i + 1], seed=seeds[i : i + 1]) for i in range(9)]
    assert torch.allclose(moved, together[shuffled], atol=1e-6)
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)


@every_attack_in_every_norm
def test_epsilon_per_image_is_that_number(choice, norm, network, batch):
    attack = partial(chosen(choice), network, *batch, norm=norm)
    number = attack(epsilon=EPSILON[norm])
    per_image = torch.full((7,), EPSILON[norm])
    assert torch.equal(attack(epsilon=per_image), number)
    assert torch.equal(attack(epsilon=per_image.view(7, 1, 1, 1)), number)


@every_attack_in_every_norm
def test_every_image_has_its_own_epsilon(choice, norm, network, batch):
    epsilon = torch.linspace(0, EPSILON[norm], 7)
    adversarial = chosen(choice)(network, *batch, epsilon=epsilon, norm=norm)
    sizes = distance(adversarial - batch[0], norm)
    assert torch.equal(adversarial[0], batch[0][0])
    assert (sizes <= epsilon * (1 + 1e-5) + 1e-6).all()
    found = sizes[1:] > 0  # a minimum-norm attack leaves an image alone if it finds nothing
    assert found.any() if is_minimum_norm(choice["name"]) else found.all()


@every_attack
def test_epsilon_per_pixel(choice, network, batch):
    attack = partial(chosen(choice), network, *batch)
    full = torch.full((7, 3, 4, 4), 0.1)
    for norm in {*norms_of(choice["name"])} - {"linf"}:
        with pytest.raises(ValueError, match=f"epsilon of shape .* does not fit {norm}"):
            attack(epsilon=full, norm=norm)
    if "linf" not in norms_of(choice["name"]):
        return
    number = attack(epsilon=0.1, norm="linf")
    for epsilon in (full, full[0], full[:1, :1], full[0, 0]):
        assert torch.equal(attack(epsilon=epsilon, norm="linf"), number)
    epsilon = torch.linspace(0, 0.1, 16).view(4, 4)
    perturbation = attack(epsilon=epsilon, norm="linf") - batch[0]
    assert (perturbation.abs() <= epsilon + 1e-6).all()
    assert not perturbation[..., 0, 0].any()


@every_attack_in_every_norm
def test_no_budget_no_change(choice, norm, network, batch):
    assert torch.equal(chosen(choice)(network, *batch, epsilon=0, norm=norm), batch[0])


@every_attack_in_every_norm
def test_an_empty_batch_stays_empty_and_the_model_unasked(choice, norm, network):
    def fussy(images):
        return network(images.reshape(len(images), -1).reshape(images.shape))

    images, labels = torch.empty(0, 3, 4, 4), torch.empty(0, dtype=torch.int64)
    assert chosen(choice)(fussy, images, labels, epsilon=0.1, norm=norm).shape == (images.shape)


@every_attack
def test_a_plain_function_is_a_model(choice, lin400):
    images, labels = lin400.images[:8], lin400.labels[:8]
    attack = partial(chosen(choice), epsilon=0.1)
    expected = attack(lin400.model, images, labels)
    assert torch.equal(attack(lambda pixels: lin400.model(pixels), images, labels), expected)
    with torch.no_grad():
        assert torch.equal(attack(lin400.model, images, labels), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@every_attack
def test_logits_of_any_precision(choice, dtype, network, batch):
    adversarial = chosen(choice)(lambda x: network(x).to(dtype), *batch, epsilon=0.1)
    assert adversarial.dtype == torch.float32


@every_name
def test_a_model_that_sums_pixels(choice, batch):
    """Its gradient is one number in memory, which autograd shows at every pixel."""

    def model(pixels):
        brightness = pixels.flatten(1).mean(1, keepdim=True)
        return torch.cat([brightness, 1 - brightness, 0 * brightness, brightness - 1], 1)

    labels = model(batch[0]).argmax(1)
    adversarial = chosen(choice)(model, batch[0], labels, epsilon=0.5)
    assert not torch.equal(adversarial, batch[0])


@every_attack
def test_no_graph_reaches_back_to_the_images(choice, network, batch):
    images = batch[0].clone().requires_grad_(True)
    adversarial = chosen(choice)(network, images, batch[1], epsilon=0.1)
    assert not adversarial.requires_grad and images.grad is None


@every_minimum_norm
def test_without_epsilon_every_change_is_a_success(choice, norm, lin400):
    images, labels = lin400.images[:40], lin400.labels[:40]
    right = lin400.model(images).argmax(1) == labels
    adversarial = chosen(choice)(lin400.model, images, labels, epsilon=None, norm=norm)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    changed = distance(adversarial - images, norm) > 0
    assert not (changed & ~right).any()
    assert torch.equal(changed & right, (lin400.model(adversarial).argmax(1) != labels) & right)
    assert changed.sum() > 0.9 * right.sum()


@every_minimum_norm
def test_epsilon_only_brings_back_what_lies_outside_the_ball(choice, norm, lin400):
    attack = partial(chosen(choice), lin400.model, lin400.images[:40], lin400.labels[:40])
    nearest = attack(epsilon=None, norm=norm)
    epsilon = EPSILON[norm]
    sizes = distance(nearest - lin400.images[:40], norm)
    budgeted = attack(epsilon=epsilon, norm=norm)
    reached = distance(budgeted - lin400.images[:40], norm)
    assert torch.allclose(reached[sizes > epsilon], torch.tensor(epsilon), rtol=1e-4)
    inside = sizes <= epsilon
    assert inside.any() and torch.allclose(budgeted[inside], nearest[inside], atol=1e-6)


@every_name_in_every_norm
def test_beats_random_noise(choice, norm, lin400):
    if choice["name"] == "random_noise":
        return
    noise, attacked = (
        lin400.robust_accuracy(chosen(tried)(*lin400, epsilon=EPSILON[norm], norm=norm))
        for tried in ({"name": "random_noise"}, choice)
    )
    assert noise - attacked > LEAD.get(choice["name"], 0.2)


WRONG_IMAGES = {
    "outside the box": (torch.full((7, 3, 4, 4), 1.01), r"in \[0, 1\], got \[1.01, 1.01\]"),
    "bytes as floats": (torch.full((7, 3, 4, 4), 255.0), r"in \[0, 1\], got \[255, 255\]"),
    "below the box": (torch.full((7, 3, 4, 4), -0.01), r"in \[0, 1\], got \[-0.01, -0.01\]"),
    "not a number": (torch.full((7, 3, 4, 4), torch.nan), "must be finite"),
    "double": (torch.full((7, 3, 4, 4), 0.5, dtype=torch.float64), "must be float32"),
    "bytes": (torch.full((7, 3, 4, 4), 1, dtype=torch.uint8), "must be float32"),
    "half": (torch.full((7, 3, 4, 4), 0.5).half(), "must be float32"),
    "flat": (torch.full((7, 48), 0.5), r"of shape \(batch, channels, height, width\)"),
}
WRONG_LABELS = {
    "too few": (torch.zeros(6, dtype=torch.int64), "one per image"),
    "one-hot": (torch.zeros(7, 5, dtype=torch.int64), "one per image"),
    "floats": (torch.zeros(7), "must be int64"),
    "negative": (torch.full((7,), -100), "class indices from 0, got -100"),
}


@every_name
@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("images", "message"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_images(choice, images, message, network, batch):
    with pytest.raises(ValueError, match=message):
        chosen(choice)(network, images, batch[1], epsilon=0.1)


@every_name
@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels(choice, labels, message, network, batch):
    with pytest.raises(ValueError, match=message):
        chosen(choice)(network, batch[0], labels, epsilon=0.1)


WRONG_LOGITS = {
    "a class too many": (lambda logits: logits[:, :3], "labels must be below the 3 classes"),
    "not finite": (lambda logits: logits / 0, "logits must be finite"),
    "one class": (lambda logits: logits[:, :1], r"\(batch, classes\) with at least 2 classes"),
    "flat": (lambda logits: logits[:, 0], r"\(batch, classes\) with at least 2 classes, got"),
}


@every_name
@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("change", "message"), WRONG_LOGITS.values(), ids=WRONG_LOGITS)
def test_wrong_logits(choice, change, message, network, batch):
    network.eval()
    with pytest.raises(ValueError, match=message):
        chosen(choice)(lambda x: change(network(x)), batch[0], torch.arange(7) % 5, epsilon=0.1)


@every_name_in_every_norm
def test_wrong_epsilon(choice, norm, network, batch):
    """Eight where 8 / 255 is meant, and whatever else is no radius."""
    attack = partial(chosen(choice), network, *batch, norm=norm)
    largest = {"linf": 1, "l2": math.sqrt(48), "l1": 48}[norm]
    named = rf"epsilon must be in \[0, {largest:g}\] for {norm} .*, got {8 * largest:g}$"
    per_image = torch.full((7,), 0.1)
    for epsilon, message in [
        (8 * largest, named),
        (-0.1, "epsilon must be in .* got -0.1"),
        (math.nan, "epsilon must be in .* got nan"),
        (torch.tensor([0.1] * 6 + [8 * largest]), named),
        (per_image[:6], "does not fit images"),
        (per_image.view(7, 1, 1, 1, 1), "does not fit"),
    ]:
        with pytest.raises(ValueError, match=message):
            attack(epsilon=epsilon)


@every_name
@pytest.mark.usefixtures("unchecked_types")
def test_a_norm_it_does_not_know(choice, network, batch):
    for norm in {*NORMS, "l7"} - {*norms_of(choice["name"])}:
        with pytest.raises(ValueError, match=f"norm must be .*, got '{norm}'"):
            chosen(choice)(network, *batch, epsilon=0.1, norm=norm)


@every_name
def test_shapes_are_enforced_under_test(choice, network, batch):
    with pytest.raises(jaxtyping.TypeCheckError, match="labels"):
        chosen(choice)(network, batch[0], batch[1][:-1], epsilon=0.1)


@every_name
def test_signature_is_that_of_an_attack(choice):
    parameters = inspect.signature(ATTACKS[choice["name"]]).parameters
    data = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert data == ["model", "images", "labels"]
    assert {"epsilon", "norm", "seed"} <= parameters.keys()
    assert parameters["epsilon"].default is inspect.Parameter.empty
