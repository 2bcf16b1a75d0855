"""Every entry of ATTACKS keeps to its budget, leaves the model alone and is reproducible."""

import inspect
from functools import partial

import jaxtyping
import pytest
import torch
from torch import nn

from components.attacks import ATTACKS
from components.attacks.geometry import NORMS, distance
from components.choose import choose

EPSILON = {"linf": 8 / 255, "l2": 0.5}
# Beside its defaults, an attack is tried with these options.
VARIANTS = {
    "fgsm": [{"loss": "cross_entropy"}],
    "pgd": [
        {"keep": "first", "restarts": 2},
        {"keep": "last"},
        {"start": "clean", "step_size": 0.05},
    ],
    "random_noise": [{"trials": 1}],
}
CASES = [
    pytest.param({"name": name, **options}, id="-".join(map(str, [name, *options.values()])))
    for name in ATTACKS
    for options in [{}, *VARIANTS.get(name, [])]
]
every_attack = pytest.mark.parametrize("choice", CASES)
every_name = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
every_norm = pytest.mark.parametrize("norm", NORMS)


def chosen(choice):
    return choose(ATTACKS, choice, given=("epsilon", "norm", "seed"))


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


@every_norm
@every_attack
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


@every_norm
@every_attack
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


@every_norm
@every_attack
def test_an_image_is_attacked_alike_in_any_company(choice, norm, lin400):
    if "loss" in inspect.signature(ATTACKS[choice["name"]]).parameters:
        choice = {**choice, "loss": "margin"}  # whose gradient rounds alike in any batch
    images, labels, seeds = lin400.images[:9], lin400.labels[:9], torch.arange(100, 109)
    attack = partial(chosen(choice), lin400.model, epsilon=EPSILON[norm], norm=norm)
    together = attack(images, labels, seed=seeds)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = attack(images[shuffled], labels[shuffled], seed=seeds[shuffled])
    alone = [attack(images[i : i + 1], labels[i : i + 1], seed=seeds[i : i + 1]) for i in range(9)]
    assert torch.allclose(moved, together[shuffled], atol=1e-6)
    assert torch.allclose(torch.cat(alone), together, atol=1e-6)


@every_norm
@every_attack
def test_epsilon_per_image_is_that_number(choice, norm, network, batch):
    attack = partial(chosen(choice), network, *batch, norm=norm)
    number = attack(epsilon=EPSILON[norm])
    per_image = torch.full((7,), EPSILON[norm])
    assert torch.equal(attack(epsilon=per_image), number)
    assert torch.equal(attack(epsilon=per_image.view(7, 1, 1, 1)), number)


@every_norm
@every_attack
def test_every_image_has_its_own_epsilon(choice, norm, network, batch):
    epsilon = torch.linspace(0, EPSILON[norm], 7)
    adversarial = chosen(choice)(network, *batch, epsilon=epsilon, norm=norm)
    sizes = distance(adversarial - batch[0], norm)
    assert torch.equal(adversarial[0], batch[0][0])
    assert (sizes <= epsilon * (1 + 1e-5) + 1e-6).all() and (sizes[1:] > 0).all()


@every_attack
def test_epsilon_per_pixel(choice, network, batch):
    attack = partial(chosen(choice), network, *batch)
    number = attack(epsilon=0.1)
    for shape in [(7, 3, 4, 4), (3, 4, 4), (1, 1, 4, 4), (4, 4)]:
        assert torch.equal(attack(epsilon=torch.full(shape, 0.1)), number)
    epsilon = torch.linspace(0, 0.1, 16).view(4, 4)
    perturbation = attack(epsilon=epsilon) - batch[0]
    assert (perturbation.abs() <= epsilon + 1e-6).all()
    assert not perturbation[..., 0, 0].any()
    with pytest.raises(ValueError, match=r"epsilon of shape .* does not fit l2"):
        attack(epsilon=torch.full((7, 3, 4, 4), 0.1), norm="l2")


@every_norm
@every_attack
def test_no_budget_no_change(choice, norm, network, batch):
    assert torch.equal(chosen(choice)(network, *batch, epsilon=0, norm=norm), batch[0])


@every_norm
@every_attack
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


@every_attack
def test_no_graph_reaches_back_to_the_images(choice, network, batch):
    images = batch[0].clone().requires_grad_(True)
    adversarial = chosen(choice)(network, images, batch[1], epsilon=0.1)
    assert not adversarial.requires_grad and images.grad is None


@every_name
def test_beats_random_noise(attack, lin400):
    if attack is ATTACKS["random_noise"]:
        return
    for norm, epsilon in EPSILON.items():
        problem = lin400.model, lin400.images, lin400.labels
        noise = ATTACKS["random_noise"](*problem, epsilon=epsilon, norm=norm)
        attacked = attack(*problem, epsilon=epsilon, norm=norm)
        margin = lin400.robust_accuracy(noise) - lin400.robust_accuracy(attacked)
        assert margin > 0.2


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
def test_wrong_images(attack, images, message, network, batch):
    with pytest.raises(ValueError, match=message):
        attack(network, images, batch[1], epsilon=0.1)


@every_name
@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels(attack, labels, message, network, batch):
    with pytest.raises(ValueError, match=message):
        attack(network, batch[0], labels, epsilon=0.1)


@every_name
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 8}, r"epsilon must be in \[0, 1\] for linf .*, got 8$"),
        ({"epsilon": -0.1}, "epsilon must be in"),
        ({"epsilon": float("nan")}, "epsilon must be in"),
        ({"epsilon": 128, "norm": "l2"}, r"epsilon must be in \[0, 6.9282\] for l2"),
        ({"epsilon": torch.tensor([0.1] * 6 + [8.0])}, "epsilon must be in .* got 8$"),
        ({"epsilon": torch.full((6,), 0.1)}, "does not fit images"),
        ({"epsilon": torch.full((7, 1, 1, 1, 1), 0.1)}, "does not fit"),
        ({"epsilon": 0.1, "norm": "l7"}, r"norm must be one of \['linf', 'l2'\], got 'l7'"),
    ],
)
def test_wrong_options(attack, options, message, network, batch):
    with pytest.raises(ValueError, match=message):
        attack(network, *batch, **options)


@every_name
def test_shapes_are_enforced_under_test(attack, network, batch):
    with pytest.raises(jaxtyping.TypeCheckError, match="labels"):
        attack(network, batch[0], batch[1][:-1], epsilon=0.1)


@every_name
def test_signature_is_that_of_an_attack(attack):
    parameters = inspect.signature(attack).parameters
    data = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert data == ["model", "images", "labels"]
    assert {"epsilon", "norm", "seed"} <= parameters.keys()
    assert parameters["epsilon"].default is inspect.Parameter.empty
