"""Auto-PGD against its own algorithm written out, and linear models of known robust accuracy."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from components.attacks.apgd import apgd
from components.attacks.apgd_targeted import apgd_targeted
from components.attacks.geometry import distance
from components.attacks.losses import margin
from components.attacks.step_rules import checkpoints

# Robust accuracy of the linear problem: exact, and what is left by losses that blend the classes.
KNOWN = {
    ("linf", 4 / 255): (0.7050, 0.7275),
    ("linf", 8 / 255): (0.4400, 0.5100),
    ("l2", 0.25): (0.6000, 0.6475),
    ("l2", 0.5): (0.2475, 0.3050),
    ("l1", 2.0): (0.4725, 0.5200),
}
STEPS = {"linf": 20, "l2": 20, "l1": 40}


def fooled(model, adversarial, labels):
    with torch.no_grad():
        return margin(model(adversarial), labels) > 0


class Watched(nn.Module):
    """Keeps all points it was asked about."""

    def __init__(self, model):
        super().__init__()
        self.model, self.batches = model, []

    def forward(self, images):
        self.batches.append(images.detach().clone())
        return self.model(images)


def test_checkpoints_as_published():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]


def test_checkpoints_keep_their_places_with_few_steps():
    assert checkpoints(20) == [5, 9, 12, 14, 16, 18, 19, 20]
    assert checkpoints(3) == [1, 2, 3]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize(("threat", "left"), KNOWN.items())
def test_alone_it_stops_where_its_loss_does(threat, left, lin400):
    norm, epsilon = threat
    options = {"norm": norm, "epsilon": epsilon, "steps": STEPS[norm]}
    tolerance = 0.006 if norm == "l1" else 1e-9
    adversarial = apgd(*lin400, **options)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(left[1], abs=tolerance)


@pytest.mark.parametrize(("threat", "left"), KNOWN.items())
def test_towards_every_class_it_is_exact(threat, left, lin400):
    norm, epsilon = threat
    options = {"norm": norm, "epsilon": epsilon, "steps": STEPS[norm]}
    targeted = apgd_targeted(*lin400, **options)
    assert lin400.robust_accuracy(targeted) == pytest.approx(left[0])
    blended = fooled(lin400.model, apgd(*lin400, **options), lin400.labels)
    union = torch.where(blended.view(-1, 1, 1, 1), 1 - lin400.images, targeted)
    assert lin400.robust_accuracy(targeted) >= lin400.robust_accuracy(union) - 1e-9
    either = blended | fooled(lin400.model, targeted, lin400.labels)
    assert 1 - either.double().mean() == pytest.approx(left[0])


@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "margin"])
def test_other_losses(loss, lin400):
    adversarial = apgd(*lin400, epsilon=8 / 255, steps=20, loss=loss)
    left = lin400.robust_accuracy(adversarial)
    assert left == pytest.approx(0.51 if loss == "cross_entropy" else 0.44)
    if loss != "dlr":
        targeted = apgd_targeted(*lin400, epsilon=8 / 255, steps=20, loss=loss)
        assert lin400.robust_accuracy(targeted) <= left


def curved(pixels):
    """Four pixels, two classes, a margin with hills that never gets above zero."""
    return torch.sin(9 * pixels @ torch.tensor([1.0, -0.7, 0.4, 0.2])[:, None]) - 2 - pixels[:, :1]


def written_out(margin_at, image, start, epsilon, norm, steps):
    """Algorithm 1 for one image, step by step as in the paper."""

    def inside(point):
        if norm == "linf":
            return point.clamp(image - epsilon, image + epsilon).clamp(0, 1)
        shift = point - image
        return image + shift * min(1.0, epsilon / float(shift.norm()))

    def look(point):
        point = point.clone().requires_grad_(True)
        value = margin_at(point[None])[0, 0]
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.sign() if norm == "linf" else gradient / gradient.norm()

    visited, values = [start], []
    point = previous = start
    step_size, halved, last = 2 * epsilon, False, 0
    best_value = at_last_check = -math.inf
    for step in range(steps):
        value, direction = look(point)
        values.append(value)
        if value > best_value:
            best_value, best_point, best_direction = value, point, direction
        if step in checkpoints(steps):
            rises = sum(values[i + 1] > values[i] for i in range(last, step))
            stuck = not halved and best_value == at_last_check
            halved = rises < 0.75 * (step - last) or stuck
            at_last_check, last = best_value, step
            if halved:
                step_size, point, direction = step_size / 2, best_point, best_direction
        ahead = inside(point + step_size * direction)
        if step:
            ahead = inside(point + 0.75 * (ahead - point) + 0.25 * (point - previous))
        previous, point = point, ahead
        visited.append(point)
    return torch.stack(visited)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.3), ("l2", 0.4)])
@pytest.mark.parametrize("seed", range(4))
def test_visits_the_points_of_the_algorithm(norm, epsilon, seed, one_pixel):
    image = torch.tensor([0.5, 0.45, 0.55, 0.6]).view(1, 1, 2, 2)
    model = Watched(one_pixel(curved))
    label = torch.tensor([0])
    adversarial = apgd(model, image, label, epsilon=epsilon, norm=norm, steps=50, seed=seed)
    visited = torch.cat(model.batches).flatten(1)
    expected = written_out(curved, image.flatten(), visited[0], epsilon, norm, 50)
    assert torch.allclose(visited, expected, atol=1e-3)
    assert curved(adversarial.flatten(1)).item() == pytest.approx(curved(visited).max().item())
    if norm == "linf":
        assert (visited[0] - image.flatten()).abs().max().item() == pytest.approx(epsilon)
    else:
        assert (visited[0] - image.flatten()).norm().item() == pytest.approx(epsilon)


FREE = [0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2]
AT_THE_WALL = [1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2]


@pytest.mark.parametrize(
    ("case", "norm", "nearest"),
    [
        (FREE, "linf", 0.166667),
        (FREE, "l2", 0.282843),
        (FREE, "l1", 0.333333),
        (AT_THE_WALL, "linf", 0.46),
        (AT_THE_WALL, "l2", 0.653394),
        (AT_THE_WALL, "l1", 0.9),
    ],
)
def test_succeeds_from_the_minimal_distance_on(case, norm, nearest, tiny):
    model, image, label = tiny(*case)
    for share, expected in [(0.999, False), (1.003, True)]:
        options = {"norm": norm, "loss": "margin", "epsilon": share * nearest}
        assert fooled(model, apgd(model, image, label, **options), label).item() is expected


@pytest.mark.parametrize("attack", [apgd, apgd_targeted])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 6 / 255), ("l2", 0.4), ("l1", 2.0)])
def test_neither_batch_size_nor_company_nor_order_matter(norm, epsilon, attack, lin400):
    weight, bias = (parameter.detach() for parameter in lin400.model[1].parameters())

    def model(images):
        """Add every image up alone: a product of matrices rounds by the size of the batch."""
        return (images.flatten(1)[:, None] * weight).sum(2) + bias

    images, labels, seeds = lin400.images[:14], lin400.labels[:14], torch.arange(14)
    attack = partial(attack, model, norm=norm, steps=5, restarts=2, loss="margin")
    expected = attack(images, labels, seed=seeds, epsilon=epsilon)
    assert 3 < fooled(model, expected, labels).sum() < 12
    for size in (1, 7):
        found = attack(images, labels, seed=seeds, epsilon=epsilon, batch_size=size)
        assert torch.allclose(found, expected, atol=1e-6)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))[:9]
    epsilons = torch.full((9,), epsilon)
    found = attack(images[order], labels[order], seed=seeds[order], epsilon=epsilons, batch_size=5)
    assert torch.allclose(found, expected[order], atol=1e-6)


@pytest.mark.parametrize("attack", [apgd, apgd_targeted])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 6 / 255), ("l2", 0.4), ("l1", 2.0)])
def test_what_is_kept_changes_no_verdict(norm, epsilon, attack, lin400):
    model, images, labels = lin400.model, lin400.images[:100], lin400.labels[:100]
    attack = partial(attack, model, images, labels, norm=norm, epsilon=epsilon, steps=7, restarts=2)
    first, best = attack(keep="first"), attack(keep="best")
    verdicts = [fooled(model, kept, labels) for kept in (first, best)]
    assert torch.equal(*verdicts)
    with torch.no_grad():
        further = [margin(model(kept), labels) for kept in (first, best)]
    assert (further[1] >= further[0] - 1e-5)[verdicts[0]].all()
    assert (further[1] > further[0] + 1e-3).any()


@pytest.mark.parametrize("keep", ["first", "best"])
def test_more_of_anything_never_rescues_an_image(keep, network, batch):
    images, labels = batch[0].repeat(8, 1, 1, 1), batch[1].repeat(8)
    network.eval()
    for attack, option, values in [
        (apgd, "restarts", (1, 2, 5)),
        (apgd_targeted, "restarts", (1, 3)),
        (apgd_targeted, "targets", (1, 2, 4)),
    ]:
        options = {"epsilon": 0.02, "steps": 4, "keep": keep}
        fallen = [
            fooled(network, attack(network, images, labels, **options, **{option: value}), labels)
            for value in values
        ]
        assert all((more >= less).all() for less, more in itertools.pairwise(fallen))


@pytest.mark.parametrize("keep", ["first", "best"])
def test_every_restart_begins_elsewhere(keep):
    """Flat on both sides of the middle, and wrong on one: only where a climb starts matters."""
    right, wrong = torch.tensor([1.0, 0.9, 0.9]), torch.tensor([1.0, 1.2, -5.0])

    def model(images):
        pixels = images.flatten(1)
        return torch.where(pixels > 0.5, wrong, right) + 0 * pixels

    images, labels = torch.full((40, 1, 1, 1), 0.5), torch.zeros(40, dtype=torch.int64)
    fallen = [
        fooled(model, apgd(model, images, labels, epsilon=0.5, steps=1, **options), labels).sum()
        for options in ({"restarts": 1, "keep": keep}, {"restarts": 12, "keep": keep})
    ]
    assert 8 < fallen[0] < 32 and fallen[1] == 40


@pytest.mark.parametrize(("restarts", "size"), [(1, 256), (3, 256), (3, 8)])
def test_model_is_asked_once_a_step_about_survivors_alone(restarts, size):
    """Ten images fall wherever one looks, ten never do."""
    easy = torch.arange(20) % 2 == 0
    images = (0.3 + 0.4 * easy.float()).view(20, 1, 1, 1).expand(20, 1, 2, 2)

    def logits(images):
        pixels = images.flatten(1)
        lead = torch.where(pixels.mean(1, keepdim=True) > 0.5, 1.0, -1.0) + 1e-3 * pixels[:, :1]
        return torch.cat([torch.zeros_like(lead), lead], 1)

    model = Watched(logits)
    labels, steps = torch.zeros(20, dtype=torch.int64), 6
    apgd(model, images, labels, epsilon=0.1, steps=steps, restarts=restarts, batch_size=size)
    sizes = [len(batch) for batch in model.batches]
    at_once = min(restarts, -(-size // 20))  # a second attempt may start before the first falls
    assert sum(sizes) == 10 * at_once + 10 * restarts * (steps + 1)
    assert max(sizes) <= size and min(sizes) >= 1
    assert len(sizes) <= -(-sum(sizes) // size) + steps + 1


def test_draws_are_averaged(lin400):
    """Noise of opposite signs in every other pass leaves nothing of it in the mean."""
    model, images, labels = lin400
    passes = itertools.count()

    def noisy(images):
        sign = 1 - 2 * (next(passes) % 2)
        push = sign * 50 * torch.stack([images.mean((1, 2, 3))] * 4, 1) * torch.arange(4.0)
        return model(images) + push

    options = {"epsilon": 6 / 255, "steps": 5, "loss": "margin"}
    expected = apgd_targeted(model, images, labels, **options)
    found = apgd_targeted(noisy, images, labels, draws=2, **options)
    verdicts = [fooled(model, kept, labels) for kept in (found, expected)]
    assert (verdicts[0] == verdicts[1]).double().mean() > 0.99
    assert 0.4 < verdicts[1].double().mean() < 0.6
    asked = next(passes)
    apgd(noisy, images[:9], labels[:9], epsilon=0, steps=4, draws=3, keep="best")
    assert next(passes) == asked + 1 + 3 * 5


def test_the_first_phases_of_l1_look_outside_the_ball_but_count_nothing_there(lin400):
    images, labels = lin400.images[:20], lin400.labels[:20]
    model = Watched(lin400.model)
    found = apgd(model, images, labels, epsilon=1.0, norm="l1", steps=20, keep="best")
    sizes = torch.stack([distance(batch - images, "l1") for batch in model.batches])
    assert len(sizes) == 21
    for phase, limit in ((slice(0, 7), 3.0), (slice(7, 13), 2.0), (slice(13, 21), 1.0)):
        assert (sizes[phase] <= limit * (1 + 1e-4)).all()
        assert (sizes[phase].amax(0) > 0.9 * limit).all()
    assert (distance(found - images, "l1") <= 1 + 1e-4).all()


def test_a_success_between_one_and_three_epsilon_is_none(one_pixel):
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    model = Watched(one_pixel(lambda x: (x - 0.5).abs() - 0.15))
    for keep in ("first", "best"):
        model.batches.clear()
        found = apgd(model, image, label, epsilon=0.1, norm="l1", steps=20, keep=keep)
        assert fooled(model.model, torch.cat(model.batches), label.expand(21)).any()
        assert (found - image).abs().item() == pytest.approx(0.1)
        assert len(model.batches) == 21


def test_sparse_steps_move_few_pixels_at_the_end(lin400):
    found = apgd(*lin400, epsilon=1.0, norm="l1", steps=40)
    moved = (found != lin400.images).flatten(1).sum(1)
    assert moved.double().median() < 0.1 * 192


def test_two_and_three_classes(tiny, one_pixel):
    model, image, label = tiny(*FREE)
    two = one_pixel(lambda x: x - 0.75)
    cases = [(model, image, label, 0.1666), (two, torch.full((1, 1, 1, 1), 0.5), label, 0.2499)]
    for model, image, label, reach in cases:
        for epsilon, expected in ((reach, False), (reach + 0.001, True)):
            options = {"epsilon": epsilon, "steps": 30}
            found = apgd(model, image, label, loss="margin", **options)
            assert fooled(model, found, label).item() is expected
            with pytest.warns(UserWarning, match="dlr needs 4 classes, the model tells . apart"):
                found = apgd_targeted(model, image, label, **options)
            assert fooled(model, found, label).item() is expected


def test_there_are_no_more_targets_than_wrong_classes(lin400):
    model = Watched(lin400.model)
    images, labels = (
        torch.full((1, 3, 8, 8), 0.5),
        lin400.model(torch.full((1, 3, 8, 8), 0.5)).argmax(1),
    )
    apgd_targeted(model, images, labels, epsilon=1e-6, steps=3, targets=9, restarts=2)
    assert sum(map(len, model.batches)) == 1 + 3 * 2 * 4


def test_the_true_class_is_no_target_of_what_is_misclassified(lin400):
    """Likeliest wrong class first, wherever the true one ranks."""
    images, labels = lin400.images[:100], (lin400.labels[:100] + 1) % 4
    found = apgd_targeted(
        lin400.model, images, labels, epsilon=0.1, steps=3, targets=1, loss="margin"
    )
    assert fooled(lin400.model, found, labels).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"loss": "mse"}, "unknown .*loss 'mse'"),
    ],
)
@pytest.mark.parametrize("attack", [apgd, apgd_targeted])
def test_options_that_make_no_sense(attack, options, message, lin400):
    with pytest.raises(ValueError, match=message):
        attack(*lin400, epsilon=0.1, **options)


@pytest.mark.usefixtures("unchecked_types")
def test_what_to_keep_is_one_of_two_words(lin400):
    with pytest.raises(ValueError, match=r"keep must be one of \['best', 'first'\], got 'last'"):
        apgd(*lin400, epsilon=0.1, keep="last")
    with pytest.raises(ValueError, match="targets must be at least 1, got 0"):
        apgd_targeted(*lin400, epsilon=0.1, targets=0)
