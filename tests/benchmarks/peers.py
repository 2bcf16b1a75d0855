"""The same attack as each of the other libraries offers it, called as its manual says."""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import foolbox
import torch
import torchattacks
from adv_lib import attacks as adv_lib
from art.attacks import evasion as art
from art.estimators.classification import PyTorchClassifier
from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2
from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
from pyautoattack.autoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

Attack: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Tensor]
Peers: TypeAlias = dict[str, Attack]

CLASSES = 10
_INFINITY = math.inf
_QUIET = logging.getLogger("peers")


def fgsm(epsilon: float) -> Peers:
    """Give each peer's fast gradient sign method."""
    return {
        "torchattacks": _torchattacks(torchattacks.FGSM, eps=epsilon),
        "foolbox": _foolbox(foolbox.attacks.LinfFastGradientAttack, {}, epsilon),
        "art": _art(art.FastGradientMethod, eps=epsilon),
        "cleverhans": lambda model, images, labels: fast_gradient_method(
            model, images, epsilon, _INFINITY, clip_min=0, clip_max=1, y=labels
        ),
    }


def pgd(epsilon: float, steps: int, step_size: float) -> Peers:
    """Give each peer's projected gradient descent in linf from a random start."""
    return {
        "torchattacks": _torchattacks(torchattacks.PGD, eps=epsilon, alpha=step_size, steps=steps),
        "foolbox": _foolbox(
            foolbox.attacks.LinfPGD, {"abs_stepsize": step_size, "steps": steps}, epsilon
        ),
        "art": _art(
            art.ProjectedGradientDescentPyTorch,
            eps=epsilon,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=1,
            verbose=False,
        ),
        "adv-lib": lambda model, images, labels: adv_lib.pgd_linf(
            model, images, labels, epsilon, steps=steps, absolute_step_size=step_size
        ),
        "cleverhans": _cleverhans_pgd(epsilon, steps, step_size, _INFINITY),
    }


def pgd_l2(epsilon: float, steps: int, step_size: float) -> Peers:
    """Give each peer's projected gradient descent in L2 from a random start."""
    return {
        "torchattacks": _torchattacks(
            torchattacks.PGDL2, eps=epsilon, alpha=step_size, steps=steps
        ),
        "foolbox": _foolbox(
            foolbox.attacks.L2PGD, {"abs_stepsize": step_size, "steps": steps}, epsilon
        ),
        "art": _art(
            art.ProjectedGradientDescentPyTorch,
            norm=2,
            eps=epsilon,
            eps_step=step_size,
            max_iter=steps,
            num_random_init=1,
            verbose=False,
        ),
        "cleverhans": _cleverhans_pgd(epsilon, steps, step_size, 2),
    }


def apgd(epsilon: float, steps: int) -> Peers:
    """Give each peer's Auto-PGD on cross-entropy in linf."""
    return {
        "torchattacks": _torchattacks(torchattacks.APGD, eps=epsilon, steps=steps),
        "art": _art(
            art.AutoProjectedGradientDescent,
            eps=epsilon,
            eps_step=2 * epsilon,
            max_iter=steps,
            nb_random_init=1,
            loss_type="cross_entropy",
            verbose=False,
        ),
        "adv-lib": lambda model, images, labels: adv_lib.apgd(
            model, images, labels, epsilon, norm=_INFINITY, n_iter=steps, loss_function="ce"
        ),
        "official": _official(APGDAttack, eps=epsilon, n_iter=steps, logger=_QUIET),
    }


def apgd_targeted(epsilon: float, steps: int) -> Peers:
    """Give each peer's Auto-PGD on the targeted DLR loss, nine targets, in linf."""
    return {
        "torchattacks": _torchattacks(
            torchattacks.APGDT, eps=epsilon, steps=steps, n_classes=CLASSES
        ),
        "adv-lib": lambda model, images, labels: adv_lib.apgd_targeted(
            model, images, labels, epsilon, norm=_INFINITY, n_iter=steps
        ),
        "official": _official(APGDAttack_targeted, eps=epsilon, n_iter=steps, logger=_QUIET),
    }


def carlini_wagner(steps: int, search_steps: int, constant: float) -> Peers:
    """Give each peer's attack of Carlini and Wagner in L2.

    ART's takes 17 times the floor and is left out. torchattacks does not search for the constant
    and gets all the steps at once.
    """
    return {
        "torchattacks": _torchattacks(torchattacks.CW, c=constant, steps=steps * search_steps),
        "foolbox": _foolbox(
            foolbox.attacks.L2CarliniWagnerAttack,
            {
                "binary_search_steps": search_steps,
                "steps": steps,
                "initial_const": constant,
                "stepsize": 0.01,
            },
            None,
        ),
        "adv-lib": lambda model, images, labels: adv_lib.carlini_wagner_l2(
            model,
            images,
            labels,
            initial_const=constant,
            binary_search_steps=search_steps,
            max_iterations=steps,
        ),
        "cleverhans": lambda model, images, labels: carlini_wagner_l2(
            model,
            images,
            CLASSES,
            y=labels,
            lr=0.01,
            initial_const=constant,
            binary_search_steps=search_steps,
            max_iterations=steps,
        ),
    }


def deepfool(steps: int) -> Peers:
    """Give each peer's DeepFool in L2; ART's and torchattacks' go image by image."""
    return {
        "foolbox": _foolbox(foolbox.attacks.L2DeepFoolAttack, {"steps": steps}, None),
        "adv-lib": lambda model, images, labels: adv_lib.df(
            model, images, labels, steps=steps, norm=2
        ),
    }


def fab(epsilon: float, steps: int) -> Peers:
    """Give the targeted fast adaptive boundary attack, nine targets, in linf."""
    return {
        "torchattacks": _torchattacks(
            torchattacks.FAB, eps=epsilon, steps=steps, multi_targeted=True, n_classes=CLASSES
        ),
        "official": _official(FABAttack_PT, eps=epsilon, n_iter=steps, targeted=True),
    }


def square(epsilon: float, queries: int) -> Peers:
    """Give each peer's Square attack in linf."""
    return {
        "torchattacks": _torchattacks(
            torchattacks.Square, eps=epsilon, n_queries=queries, resc_schedule=False
        ),
        "art": _art(art.SquareAttack, eps=epsilon, max_iter=queries, verbose=False),
        "official": _official(SquareAttack, eps=epsilon, n_queries=queries, resc_schedule=False),
    }


def standard(epsilon: float) -> Peers:
    """Give the official AutoAttack; torchattacks' stops Auto-PGD and FAB after 10 steps."""

    def official(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = AutoAttack(model, norm="Linf", eps=epsilon, seed=0, version="standard")
        return attack.run_standard_evaluation(images, labels, batch_size=250)[0]

    return {
        "official": official,
        "torchattacks": _torchattacks(torchattacks.AutoAttack, eps=epsilon, seed=0),
    }


def _torchattacks(attack: Callable[..., Any], **options: Any) -> Attack:
    return lambda model, images, labels: attack(model, **options)(images, labels)


def _official(attack: Callable[..., Any], **options: Any) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return attack(model, norm="Linf", seed=0, device="cpu", **options).perturb(images, labels)

    return run


def _foolbox(attack: Callable[..., Any], options: dict[str, Any], epsilon: float | None) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return attack(**options)(wrapped, images, labels, epsilons=epsilon)[1]

    return run


def _art(attack: Callable[..., Any], **options: Any) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        wrapped = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            tuple(images.shape[1:]),
            CLASSES,
            clip_values=(0, 1),
            device_type="cpu",
        )
        ready = attack(wrapped, batch_size=len(images), **options)
        return torch.from_numpy(ready.generate(images.numpy(), labels.numpy()))

    return run


def _cleverhans_pgd(epsilon: float, steps: int, step_size: float, norm: float) -> Attack:
    return partial(
        _run_cleverhans_pgd, epsilon=epsilon, steps=steps, step_size=step_size, norm=norm
    )


def _run_cleverhans_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    norm: float,
) -> Tensor:
    return projected_gradient_descent(
        model,
        images,
        epsilon,
        step_size,
        steps,
        norm,
        clip_min=0,
        clip_max=1,
        y=labels,
        sanity_checks=False,
    )
