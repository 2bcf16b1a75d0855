"""Compare the cost of a training step with that of the loops which papers publish.

    uv run tests/benchmarks/training.py
    uv run tests/benchmarks/training.py --only pgd,trades --rounds 5

No test: pytest does not collect it. A step is loss, backward pass and update of a ResNet-18 on a
batch of 32x32 images; everybody takes it in one process and one thread, in turns, on the same model
and images. A ratio is taken within a round, and the median over the rounds is shown with the least
and the largest. The loops are written here as the papers' code has them: gradients of the weights
are computed in every step of the attack and thrown away, TRADES asks for the clean answer in every
step, and PART makes its masks image by image.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import models
import torch
import typer
from rich.console import Console
from rich.table import Table
from timing import interleave
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from components.objectives import choose_objective

EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 10
BETA = 6.0
_PGD = {"name": "pgd", "steps": STEPS, "step_size": STEP, "keep": "last"}
_ASCENT = {"name": "ascent", "steps": STEPS, "step_size": STEP, "start": "near"}
_BUDGET = {"epsilon": EPSILON, "low_epsilon": 7 / 255}
_RADIUS = {"epsilon": EPSILON}

Loop = Callable[[nn.Module, Tensor, Tensor], Tensor]

# Ours, and the share of the loop's time that each precision of the search aims at.
CHOICES: dict[str, tuple[dict[str, Any], dict[str | None, float]]] = {
    "pgd": (
        {"name": "adversarial", "attack": _PGD | _RADIUS},
        {None: 1.0, "float32": 0.58, "bfloat16": 0.34},
    ),
    "trades": (
        {"name": "trades", "attack": _ASCENT | _RADIUS, "beta": BETA},
        {None: 1.0, "float32": 0.60, "bfloat16": 0.38},
    ),
    "fgsm_rs": ({"name": "fgsm_rs"} | _RADIUS, {None: 1.0, "float32": 0.80, "bfloat16": 0.80}),
    "part": (
        {"name": "part", "attack": _PGD, "budget": _BUDGET},
        {None: 1.0, "float32": 1.0, "bfloat16": 0.30},
    ),
}


def main(
    only: Annotated[str, typer.Option(help="Objectives by name, with commas.")] = "",
    rounds: Annotated[int, typer.Option(help="Steps of everybody.", min=1)] = 3,
    batch: Annotated[int, typer.Option(help="Images of a step.", min=2)] = 64,
) -> None:
    """Compare Bartizan's training steps with the papers' loops."""
    torch.set_num_threads(1)
    chosen = [name for name in CHOICES if not only or name in only.split(",")]
    if not chosen:
        raise typer.BadParameter(f"no such objective: {only}, expected some of {list(CHOICES)}")
    model, images, labels = models.cifar_resnet18(batch)
    console = Console(width=100)
    for name in chosen:
        with console.status(name) as status:
            console.print(compare(name, model, images, labels, rounds, status.update))


def compare(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rounds: int,
    announce: Callable[[str], None],
) -> Table:
    """Time one objective in every precision against its loop."""
    choice, goals = CHOICES[name]
    contenders = {"the papers' loop": partial(train_step, model, LOOPS[name], images, labels)}
    for precision in goals:
        ours = partial(objective_loss, choose_objective({**choice, "precision": precision}))
        # As `build_model` leaves a model.
        faster = models.cifar_resnet18(2)[0].to(memory_format=torch.channels_last)
        contenders[_title(precision)] = partial(train_step, faster, ours, images, labels)
    interleave(contenders, 1, announce)  # the first step ever is slow
    timed = interleave(contenders, rounds, announce)
    drawn = Table(title=f"{name}, {len(images)} images", title_justify="left", min_width=80)
    for column in ("", "CPU s", "of the loop", "aim", ""):
        drawn.add_column(column, justify="right")
    judge = timed["the papers' loop"]
    drawn.add_row("the papers' loop", f"{judge.median:.2f}", "", "", "")
    for precision, goal in goals.items():
        time = timed[_title(precision)]
        median, least, most = time.over(judge)
        drawn.add_row(
            _title(precision),
            f"{time.median:.2f}",
            f"{median:.3f} ({least:.3f} to {most:.3f})",
            f"{goal:.2f}",
            "met" if median <= goal else "[red]missed[/red]",
        )
    return drawn


def train_step(model: nn.Module, loss_of: Loop, images: Tensor, labels: Tensor) -> Tensor:
    """Take one step; the learning rate is small enough for the next one to be alike."""
    optimizer = SGD(model.parameters(), 1e-4, momentum=0.9)
    model.train()
    loss = loss_of(model, images, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def objective_loss(
    objective: Callable[..., dict[str, Tensor]], model: nn.Module, images: Tensor, labels: Tensor
) -> Tensor:
    """Give the loss of an objective of ours."""
    return objective(model, images, functional.one_hot(labels, 10).float(), seed=0)["loss"]


def pgd_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Madry's training as its PyTorch versions have it."""
    return functional.cross_entropy(model(_pgd(model, images, labels, EPSILON)), labels)


def trades_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of TRADES, with its attack, as published."""
    model.eval()
    points = images.detach() + 0.001 * torch.randn_like(images)
    for _ in range(STEPS):
        points.requires_grad_()
        moved = _divergence(model(points), model(images), "sum")
        (gradient,) = torch.autograd.grad(moved, [points])
        points = _projected(points.detach() + STEP * gradient.sign(), images, EPSILON)
    model.train()
    clean_loss = functional.cross_entropy(model(images), labels)
    return clean_loss + BETA * _divergence(model(points), model(images), "batchmean")


def fgsm_rs_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One step from a random start, as published: the model trains meanwhile."""
    shift = torch.empty_like(images).uniform_(-EPSILON, EPSILON)
    shift = torch.clamp(shift, -images, 1 - images).requires_grad_()
    functional.cross_entropy(model(images + shift), labels).backward()
    shift = (shift + 1.25 * EPSILON * shift.grad.sign()).clamp(-EPSILON, EPSILON).detach()
    return functional.cross_entropy(model((images + shift).clamp(0, 1)), labels)


def part_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Masks image by image, each by a whole backward pass, then PGD within them."""
    model.eval()
    epsilon = torch.stack([_epsilon_of(model, image) for image in images.split(1)])
    points = _pgd(model, images, labels, epsilon)
    return functional.cross_entropy(model(points), labels)


LOOPS: dict[str, Loop] = {
    "pgd": pgd_loss,
    "trades": trades_loss,
    "fgsm_rs": fgsm_rs_loss,
    "part": part_loss,
}


def _pgd(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
    model.eval()
    points = images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)
    for _ in range(STEPS):
        points.requires_grad_()
        functional.cross_entropy(model(points), labels).backward()
        points = _projected(points.detach() + STEP * points.grad.sign(), images, epsilon)
    model.train()
    return points


def _projected(points: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
    return torch.min(torch.max(points, images - epsilon), images + epsilon).clamp(0, 1)


def _divergence(adversarial: Tensor, clean: Tensor, reduction: str) -> Tensor:
    return functional.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction=reduction)


def _epsilon_of(model: nn.Module, image: Tensor) -> Tensor:
    """Grad-CAM at the last stage, enlarged, squared, and cut one deviation above its mean."""
    kept: list[Tensor] = []
    stage = model.network.layer4
    handle = stage.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = model(image)
    handle.remove()
    kept[0].retain_grad()
    logits.max().backward()
    weights = kept[0].grad.mean((2, 3), keepdim=True)
    chart = (weights * kept[0].detach()).sum(1, keepdim=True).relu()
    chart = (chart - chart.min()) / (chart.max() - chart.min() + 1e-8)
    chart = functional.interpolate(chart, image.shape[2:], mode="bicubic").square()
    important = chart > chart.mean() + chart.std()
    return torch.where(important, EPSILON, 7 / 255)[0]


def _title(precision: str | None) -> str:
    return "on the model" if precision is None else f"on a {precision} copy"


if __name__ == "__main__":
    typer.run(main)
