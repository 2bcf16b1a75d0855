"""What is found out about a model before any attack, and which models are refused."""

import pytest
import torch
from torch import nn
from torch.autograd import grad  # under a name of its own, as a model may have it

from components.defences import DEFENCES
from components.evaluation.config import EvaluationConfig
from components.evaluation.preflight import inspect_model
from tests.evaluation import zoo

SETTINGS = EvaluationConfig(epsilon=8 / 255)


def inspect(model: nn.Module, images=None, labels=None):
    problem = zoo.linear_problem()
    images = problem[1] if images is None else images
    return inspect_model(model, images, problem[2] if labels is None else labels, SETTINGS)


def alarms(found) -> set[str]:
    return {check.id for check in found.checks if check.verdict != "pass"}


def value(found, id: str) -> float:
    return next(check.value for check in found.checks if check.id == id)


class Also(zoo.Around):
    """The linear model with something done to its answer."""

    def __init__(self, change) -> None:
        super().__init__(zoo.linear_model())
        self.change = change

    def forward(self, images):
        return self.change(self.inner(images))


def test_an_honest_model_raises_no_alarm():
    found = inspect(zoo.linear_model())
    assert not alarms(found)
    assert (found.separate, found.differentiable, found.num_classes) == (True, True, 4)
    assert not (found.randomised or found.probabilities or found.optimises)
    assert [check.id for check in found.checks] == [f"P{k}" for k in range(1, 14)]


REFUSED = {
    "got tuple; wrap it": Also(lambda logits: (logits, logits)),
    "got dict; wrap it": Also(lambda logits: {"logits": logits}),
    r"of shape \(batch, classes\), got torch.float32 of shape \(32,\)": Also(lambda z: z[:, 0]),
    "got torch.int64": Also(lambda logits: logits.long()),
    r"of shape \(16, 4\) for 32 images": Also(lambda logits: logits[::2]),
    "at least 2 classes apart, got 1": Also(lambda logits: logits[:, :1]),
    "below the model's 3 classes, got 3": Also(lambda logits: logits[:, :3]),
    "not finite": Also(lambda logits: logits * torch.nan),
    "failed with RuntimeError": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()),
    "classify each image by itself": Also(lambda logits: logits - logits.mean(0)),
}


@pytest.mark.parametrize(("message", "model"), REFUSED.items(), ids=REFUSED)
def test_models_that_no_attack_can_work_on_are_refused_in_one_line(message, model):
    with pytest.raises(ValueError, match=message) as refusal:
        inspect(model.eval())
    assert "\n" not in str(refusal.value)


def test_a_model_on_another_device_is_refused():
    with pytest.raises(ValueError, match="got the model on meta and images on cpu"):
        inspect(nn.Sequential(nn.Flatten(), nn.Linear(192, 4, device="meta")))


def test_training_mode_is_noted_and_left_as_it_was():
    """Batch statistics and dropout do not count in evaluation mode."""
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(192), nn.Dropout(0.5), nn.Linear(192, 4)
    ).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = inspect(model)
    assert value(found, "P1") == 5 and not alarms(found)
    assert found.separate and not found.randomised
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("wrap", [zoo.NoisyLogits, zoo.NoisyInput])
def test_undeclared_randomness_is_found_out(wrap):
    state = torch.random.get_rng_state()
    found = inspect(wrap(zoo.linear_model(), 0.01))
    assert found.randomised and not found.separate and alarms(found) == {"P2"}
    assert torch.equal(torch.random.get_rng_state(), state)


def test_declared_randomness_is_a_fact_and_no_alarm():
    found = inspect(DEFENCES["random_resize_pad"](zoo.linear_model()).eval())
    assert found.randomised and not alarms(found)


def test_a_faint_influence_of_the_batch_keeps_images_together():
    faint = Also(lambda logits: logits + 3e-5 * (logits.mean(0) - logits[:1]))
    found = inspect(faint)
    assert alarms(found) == {"P3"} and not found.separate


def test_a_model_that_takes_no_single_image_is_tolerated():
    found = inspect(Also(lambda logits: logits.squeeze()))
    assert alarms(found) == {"P3"} and not found.separate


def test_what_depends_on_the_size_of_the_batch_is_noticed():
    found = inspect(Also(lambda logits: logits / len(logits)))
    assert alarms(found) == {"P3"} and not found.separate


def test_one_image_alone_can_be_looked_at():
    images, labels = zoo.linear_data()
    assert not alarms(inspect(zoo.linear_model(), images[:1], labels[:1]))


@pytest.mark.parametrize("amount", [1, 200])
def test_probabilities_are_told_from_logits(amount):
    found = inspect(zoo.Softmax(zoo.linear_model(), amount))
    assert found.probabilities and alarms(found) == {"P4"}


def test_a_log_softmax_is_harmless():
    found = inspect(Also(lambda logits: logits.log_softmax(1)))
    assert value(found, "P5") == 1 and not found.probabilities and not alarms(found)


class Numpy(zoo.Around):
    """Leaves torch on the way."""

    def forward(self, images):
        return self.inner(torch.from_numpy(images.numpy().copy()))


class Inference(zoo.Around):
    @torch.no_grad()
    def forward(self, images):
        return self.inner(images)


@pytest.mark.parametrize("wrap", [zoo.Detached, Numpy, Inference])
def test_a_model_without_gradient_is_no_error(wrap):
    found = inspect(wrap(zoo.linear_model()))
    assert not found.differentiable and alarms(found) == {"P6"}


def test_gradients_that_are_no_numbers_are_found():
    found = inspect(zoo.NoNumbers(zoo.linear_model()))
    assert found.differentiable and alarms(found) == {"P7"} and value(found, "P7") == 1


def test_pixels_divided_twice_are_found():
    images, labels = zoo.linear_data()
    assert "P8" in alarms(inspect(zoo.linear_model(), images / 255, labels))


class Backward(zoo.Around):
    """Searches by another way of taking a gradient."""

    def forward(self, images):
        with torch.enable_grad():
            moved = images.detach().requires_grad_(True)
            self.inner(moved).sum().backward()
        return self.inner(images + 0.01 * moved.grad.sign())


class Renamed(zoo.Around):
    def forward(self, images):
        with torch.enable_grad():
            moved = images.detach().requires_grad_(True)
            (direction,) = grad(self.inner(moved).sum(), moved)
        return self.inner(images + 0.01 * direction.sign())


@pytest.mark.parametrize("wrap", [zoo.Searching, Backward, Renamed])
def test_a_model_that_optimises_is_found_out(wrap):
    found = inspect(wrap(zoo.linear_model(), 0.01))
    assert found.optimises and value(found, "P10") == 1


def test_rounded_pixels_are_found():
    found = inspect(zoo.QuantisedInput(zoo.linear_model()))
    assert alarms(found) == {"P11"} and value(found, "P11") > 0.5


class Half(zoo.Around):
    """Computes in half precision and says nothing."""

    def forward(self, images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(images).float()


def test_half_precision_is_found():
    found = inspect(Half(zoo.linear_model()))
    assert found.digits == 7 and "P12" in alarms(found)


def test_several_looks_are_counted():
    class Flipped(zoo.Around):
        def forward(self, images):
            return self.inner(images) + self.inner(images.flip(3))

    assert value(inspect(Flipped(zoo.linear_model())), "P13") == 2
    assert value(inspect(zoo.linear_model()), "P13") == 1


def test_every_check_explains_itself():
    for model in (zoo.linear_model(), zoo.QuantisedInput(zoo.linear_model())):
        for check in inspect(model).checks:
            assert check.title and check.explanation.endswith(".") and check.remedy.endswith(".")
