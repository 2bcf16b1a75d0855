"""PGD against linear models of known worst images, and which of its points it keeps."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from components.attacks.losses import margin
from components.attacks.pgd import pgd

# Robust accuracy of the linear problem, exact for ball and box.
EXACT = {1: 0.8125, 2: 0.7850, 4: 0.7050, 8: 0.4400, 16: 0.0950}


def fooled(model, adversarial, labels):
    with torch.no_grad():
        return model(adversarial).argmax(1) != labels


def truly_robust(problem, epsilon):
    """Right on the clean image, and no other class gets ahead anywhere in ball and box."""
    model, images, labels = problem
    weights = model[1].weight.detach().double()
    pixels = images.flatten(1).double()
    low, high = (-pixels).clamp_min(-epsilon), (1 - pixels).clamp_max(epsilon)
    logits = pixels @ weights.T + model[1].bias.detach().double()
    differences = weights[None] - weights[labels][:, None]
    reach = torch.maximum(differences * low[:, None], differences * high[:, None]).sum(2)
    worst = logits - logits.gather(1, labels[:, None]) + reach
    return worst.scatter(1, labels[:, None], -torch.inf).amax(1) < 0


@pytest.mark.parametrize("start", ["clean", "random"])
@pytest.mark.parametrize(("step", "robust"), EXACT.items())
def test_on_the_margin_it_is_exact_for_every_image(step, robust, start, lin400):
    survivors = truly_robust(lin400, step / 255)
    assert survivors.double().mean().item() == pytest.approx(robust)
    options = {"epsilon": step / 255, "steps": 10, "loss": "margin", "start": start}
    adversarial = pgd(*lin400, **options)
    assert torch.equal(~fooled(lin400.model, adversarial, lin400.labels), survivors)


def test_two_steps_from_the_clean_image_suffice_on_the_margin(lin400):
    options = {"steps": 2, "start": "clean", "loss": "margin"}
    for step in (4, 8):
        adversarial = pgd(*lin400, epsilon=step / 255, step_size=2 * step / 255, **options)
        assert lin400.robust_accuracy(adversarial) == pytest.approx(EXACT[step])


@pytest.mark.parametrize("loss", ["cross_entropy", "logit_odds"])
@pytest.mark.parametrize(("epsilon", "robust"), [(4 / 255, 0.7275), (8 / 255, 0.5100)])
def test_on_cross_entropy_it_stops_short_as_published(epsilon, robust, loss, lin400):
    adversarial = pgd(*lin400, epsilon=epsilon, steps=10, loss=loss)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)


def test_a_sure_model_hides_from_cross_entropy_only(lin400):
    model, images, labels = lin400
    attack = partial(pgd, lambda x: 100 * model(x), images, labels, epsilon=8 / 255, steps=10)
    assert lin400.robust_accuracy(attack(loss="logit_odds")) == pytest.approx(0.44)
    assert lin400.robust_accuracy(attack(loss="cross_entropy")) == pytest.approx(0.713, abs=0.01)


@pytest.mark.parametrize(
    ("norm", "epsilon", "robust"),
    [
        ("l2", 0.1, 0.7675),
        ("l2", 0.25, 0.6),
        ("l2", 0.5, 0.2475),
        ("l1", 0.5, 0.785),
        ("l1", 1, 0.7025),
        ("l1", 2, 0.4725),
    ],
)
def test_from_the_clean_image_it_is_exact_in_other_norms_too(norm, epsilon, robust, lin400):
    options = {"norm": norm, "steps": 20, "loss": "margin", "start": "clean"}
    adversarial = pgd(*lin400, epsilon=epsilon, **options)
    assert lin400.robust_accuracy(adversarial) == pytest.approx(robust)


FREE = [0.1, -0.2, 0.0], [0.6, 0.3, 0.5, 0.2]
AT_THE_WALL = [1.6, -0.2, -0.4], [0.1, 0.1, 0.9, 0.2]


@pytest.mark.parametrize(
    ("case", "norm", "nearest"),
    [
        (FREE, "linf", 0.166667),
        (FREE, "l2", 0.282843),
        (AT_THE_WALL, "linf", 0.46),
        (AT_THE_WALL, "l2", 0.653394),
        (FREE, "l1", 0.333333),
        (AT_THE_WALL, "l1", 0.9),
    ],
)
def test_succeeds_from_the_minimal_distance_on(case, norm, nearest, tiny):
    model, image, label = tiny(*case)
    options = {"norm": norm, "loss": "margin", "start": "clean", "steps": 100}
    for share, expected in [(0.999, False), (1.001, True)]:
        adversarial = pgd(model, image, label, epsilon=share * nearest, **options)
        assert fooled(model, adversarial, label).item() is expected


@pytest.mark.parametrize(
    ("case", "norm", "nearest", "perturbation"),
    [
        (FREE, "linf", 0.166667, (-0.166667, 0.166667, 0.166667, 0.166667)),
        (FREE, "l2", 0.282843, (-0.24, 0.12, 0.04, 0.08)),
        (AT_THE_WALL, "l2", 0.653394, (-0.1, 0.530769, 0.1, 0.353846)),
        (FREE, "l1", 0.333333, (-0.333333, 0, 0, 0)),
        (AT_THE_WALL, "l1", 0.9, (-0.1, 0.8, 0, 0)),
    ],
)
def test_finds_the_nearest_adversarial_image(case, norm, nearest, perturbation, tiny):
    model, image, label = tiny(*case)
    options = {"norm": norm, "loss": "margin", "start": "clean", "steps": 100}
    adversarial = pgd(model, image, label, epsilon=nearest, **options)
    assert (adversarial - image).flatten().tolist() == pytest.approx(perturbation, abs=1e-3)


@pytest.mark.parametrize(
    ("norm", "epsilon", "worst"),
    [
        ("linf", 0.1, -0.4),
        ("linf", 0.2, 0.2),
        ("l2", 0.2, -0.292893),
        ("l2", 0.4, 0.414214),
        ("l1", 0.3, -0.1),
        ("l1", 0.6, 0.8),
        ("l1", 1.0, 1.4),
    ],
)
def test_worst_margin_in_reach(norm, epsilon, worst, tiny):
    model, image, label = tiny(*FREE)
    options = {"norm": norm, "loss": "margin", "start": "clean", "steps": 50}
    adversarial = pgd(model, image, label, epsilon=epsilon, **options)
    assert margin(model(adversarial), label).item() == pytest.approx(worst, abs=1e-5)


START, LABEL = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])


@pytest.mark.parametrize(
    ("keep", "steps", "point"),
    [("best", 2, 0.6), ("first", 2, 0.6), ("last", 2, 0.7), ("last", 1, 0.6), ("best", 1, 0.6)],
)
def test_an_overshot_success_is_kept_unless_the_last_point_is_asked_for(
    keep, steps, point, one_pixel
):
    """The climb visits .5, .6 and .7; only .6 lies in the narrow band that fools the model."""
    model = one_pixel(lambda x: 0.05 - (x - 0.61).abs())
    options = {"epsilon": 0.3, "steps": steps, "step_size": 0.1, "start": "clean", "keep": keep}
    assert pgd(model, START, LABEL, **options).item() == pytest.approx(point)


@pytest.mark.parametrize(("keep", "point"), [("best", 0.8), ("first", 0.6), ("last", 0.8)])
def test_best_goes_on_to_the_largest_margin_and_first_does_not(keep, point, one_pixel):
    model = one_pixel(lambda x: x - 0.55)
    options = {"epsilon": 0.3, "steps": 3, "step_size": 0.1, "start": "clean", "keep": keep}
    assert pgd(model, START, LABEL, **options).item() == pytest.approx(point)


@pytest.mark.parametrize(("keep", "point"), [("best", 0.6), ("first", 0.6), ("last", 0.7)])
def test_without_success_the_largest_loss_is_kept(keep, point, one_pixel):
    model = one_pixel(lambda x: -1 - (x - 0.61).abs())
    options = {"epsilon": 0.3, "steps": 2, "step_size": 0.1, "start": "clean", "keep": keep}
    assert pgd(model, START, LABEL, **options).item() == pytest.approx(point)


@pytest.mark.parametrize("keep", ["best", "first"])
@pytest.mark.parametrize("upside_down", [False, True])
def test_restarts_merge_by_success_not_by_loss(upside_down, keep):
    """One half of the pixel's range is right at cross-entropy 1.03, the other wrong at 0.80."""
    right, wrong = torch.tensor([1.0, 0.9, 0.9]), torch.tensor([1.0, 1.2, -5.0])

    def model(images):
        pixels = images.flatten(1)
        return torch.where((pixels > 0.5) ^ upside_down, wrong, right) + 0 * pixels

    options = {"epsilon": 0.5, "steps": 1, "loss": "cross_entropy", "keep": keep}
    images, labels = START.expand(50, -1, -1, -1), LABEL.expand(50)
    adversarial = pgd(model, images, labels, restarts=20, **options)
    assert fooled(model, adversarial, labels).all()
    once = fooled(model, pgd(model, images, labels, restarts=1, **options), labels)
    assert 10 < once.sum() < 40


def test_successes_of_restarts_merge_by_margin_not_by_loss():
    """Wrong everywhere: at margin 1 and cross-entropy 1.31, or at margin 0.9 and 1.78."""
    further, dearer = torch.tensor([0.0, 1.0, -9.0]), torch.tensor([0.0, 0.9, 0.9])

    def model(images):
        pixels = images.flatten(1)
        return torch.where(pixels > 0.5, further, dearer) + 0 * pixels

    options = {"epsilon": 0.5, "steps": 1, "loss": "cross_entropy"}
    images, labels = START.expand(50, -1, -1, -1), LABEL.expand(50)
    assert (pgd(model, images, labels, restarts=20, **options) > 0.5).all()
    assert 10 < (pgd(model, images, labels, restarts=1, **options) > 0.5).sum() < 40


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_dropping_what_has_fallen_changes_no_verdict(norm, lin400):
    model, images, labels = lin400
    options = {"epsilon": {"linf": 6 / 255, "l2": 0.4, "l1": 1.5}[norm], "norm": norm, "steps": 5}
    verdicts = []
    for keep, size in itertools.product(["best", "first"], [400, 33]):
        seeds = torch.arange(400)
        attacked = [
            pgd(model, *batch, seed=seed, keep=keep, restarts=2, loss="margin", **options)
            for *batch, seed in zip(
                images.split(size), labels.split(size), seeds.split(size), strict=True
            )
        ]
        verdicts.append(fooled(model, torch.cat(attacked), labels))
    assert all(torch.equal(verdict, verdicts[0]) for verdict in verdicts)


def test_more_of_anything_never_rescues_an_image(network, batch):
    images, labels = batch[0].repeat(8, 1, 1, 1), batch[1].repeat(8)
    network.eval()
    attack = partial(pgd, network, images, labels)
    base = {"epsilon": 0.02, "steps": 4, "step_size": 0.01}
    for option, values in [("steps", (1, 2, 4, 8)), ("restarts", (1, 2, 4))]:
        fallen = [fooled(network, attack(**{**base, option: value}), labels) for value in values]
        assert all((more >= less).all() for less, more in itertools.pairwise(fallen))


def test_names_of_the_classes_do_not_matter(lin400):
    model, images, labels = lin400
    order = torch.tensor([2, 0, 3, 1])
    attack = partial(pgd, epsilon=0.02, loss="margin", steps=5)
    renamed = attack(lambda x: model(x)[:, order], images, order.argsort()[labels])
    assert torch.equal(renamed, attack(model, images, labels))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_scale_of_the_logits_changes_nothing(norm, lin400):
    model, images, labels = lin400
    attack = partial(pgd, epsilon=0.02, norm=norm, loss="margin", steps=5)
    assert torch.equal(
        attack(lambda x: 16 * model(x), images, labels), attack(model, images, labels)
    )


def test_seeds(lin400):
    attack = partial(pgd, *lin400, epsilon=0.1, steps=1, step_size=1e-3)
    assert not torch.isclose(attack(seed=0), attack(seed=1)).all(3).any()
    assert torch.equal(attack(seed=0, start="clean"), attack(seed=1, start="clean"))


def test_default_step_size(lin400):
    attack = partial(pgd, *lin400, epsilon=0.08, steps=10)
    assert torch.equal(attack(), attack(step_size=0.02))


@pytest.mark.parametrize(
    ("options", "images_seen"),
    [
        ({"keep": "last"}, [8] * 5),
        ({"keep": "best"}, [8] * 6),
        ({"keep": "best", "restarts": 2}, [8] * 12),
        ({"keep": "first"}, [8] + [4] * 5),  # half of them have fallen before the climb begins
        ({"keep": "first", "restarts": 2}, [8] + [4] * 11),
    ],
)
def test_forward_passes(options, images_seen, one_pixel):
    seen = []

    def model(images):
        seen.append(len(images))
        return one_pixel(lambda x: torch.where(x > 0.5, 1.0, -1.0) + 0 * x)(images)

    images = torch.tensor([0.3, 0.7]).repeat(4).view(8, 1, 1, 1)
    pgd(model, images, LABEL.expand(8), epsilon=0.1, steps=5, **options)
    assert seen == images_seen


@pytest.mark.parametrize("restarts", [1, 2])
def test_model_is_not_asked_about_nothing(restarts, one_pixel):
    def model(images):
        assert len(images)
        return one_pixel(lambda x: x)(images)

    options = {"epsilon": 0.1, "keep": "first", "norm": "l2", "restarts": restarts}
    assert fooled(model, pgd(model, START, LABEL, **options), LABEL).all()


class Noisy(nn.Module):
    """One pixel whose gradient points the right way, in one draw out of three by chance alone."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        pixels = images.flatten(1)
        slope = 0.3 + torch.randn(pixels.shape, generator=self.generator)
        margin = slope * (pixels - pixels.detach()) + pixels.detach() - 0.9
        return torch.cat([torch.zeros_like(margin), margin], 1)


def test_draws_are_averaged_at_every_step():
    images, labels = START.repeat(500, 1, 1, 1), LABEL.repeat(500)
    options = {"epsilon": 0.3, "steps": 6, "step_size": 0.1, "start": "clean", "keep": "last"}
    found = [pgd(Noisy(), images, labels, draws=draws, **options).mean() for draws in (1, 64)]
    assert found[0] < 0.66 and found[1] > 0.78


def test_draws_are_passes(one_pixel):
    seen = []

    def model(images):
        seen.append(len(images))
        return one_pixel(lambda x: x - 2)(images)

    pgd(model, START, LABEL, epsilon=0.1, steps=3, draws=5)
    assert seen == [1] * 5 * 4


def test_the_best_of_random_answers_is_that_of_largest_mean():
    """Above 0.5 the margin is 1 in half of all draws and -5 in the others; below it is -0.2."""
    generator = torch.Generator().manual_seed(0)

    def model(images):
        pixels = images.flatten(1)
        drawn = torch.where(torch.rand(pixels.shape, generator=generator) < 0.5, 1.0, -5.0)
        margin = torch.where(pixels > 0.5, drawn, -0.2) + 0 * pixels
        return torch.cat([torch.zeros_like(margin), margin], 1)

    images, labels = START.repeat(100, 1, 1, 1), LABEL.repeat(100)
    options = {"epsilon": 0.5, "steps": 1, "restarts": 4, "loss": "margin"}
    assert (pgd(model, images, labels, draws=50, **options) > 0.5).double().mean() < 0.1
    assert (pgd(model, images, labels, draws=1, **options) > 0.5).double().mean() > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"steps": 0}, "steps and restarts must be at least 1, got 0 and 1"),
        ({"restarts": 0}, "steps and restarts must be at least 1, got 20 and 0"),
        ({"step_size": 0.0}, "step_size must be above 0, got 0"),
        ({"step_size": -0.1}, "step_size must be above 0, got -0.1"),
        ({"step_size": float("nan")}, "step_size must be above 0, got nan"),
        ({"start": "middle"}, "start or keep is not as described, got 'middle'"),
        ({"keep": "worst"}, "start or keep is not as described, got 'random' and 'worst'"),
        ({"loss": "hope"}, "unknown loss 'hope'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_wrong_options(options, message, lin400):
    with pytest.raises(ValueError, match=message):
        pgd(*lin400, epsilon=0.1, **options)


def test_model_without_gradient_is_refused(lin400):
    with pytest.raises(ValueError, match="attack it through its honest view"):
        pgd(lambda x: lin400.model(x.detach()), lin400.images, lin400.labels, epsilon=0.05)


def test_works_where_the_graph_is_not_a_module_s_own():
    """An honest view is a function; its weights must not be told from the attacked pixels."""
    layer = nn.Linear(4, 2)
    images, labels = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    pgd(lambda x: layer(x.flatten(1)), images, labels, epsilon=0.1)
    assert layer.weight.grad is None and layer.weight.requires_grad
