"""Table ATTACKS: model, images, labels -> adversarial images."""

from collections.abc import Callable

from components.attacks.fgsm import fgsm
from components.attacks.pgd import pgd
from components.attacks.random_noise import random_noise
from components.tensors import Images

ATTACKS: dict[str, Callable[..., Images]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "random_noise": random_noise,
}
