"""Table ATTACKS: model, images, labels -> adversarial images."""

from collections.abc import Callable

from components.attacks.apgd import apgd
from components.attacks.apgd_targeted import apgd_targeted
from components.attacks.bim import bim
from components.attacks.carlini_wagner import carlini_wagner
from components.attacks.deepfool import deepfool
from components.attacks.fab import fab
from components.attacks.fast_minimum_norm import fmn
from components.attacks.fgsm import fgsm
from components.attacks.hop_skip_jump import hop_skip_jump
from components.attacks.mim import mim
from components.attacks.mm_attack import mm_attack
from components.attacks.pgd import pgd
from components.attacks.random_noise import random_noise
from components.attacks.spsa import spsa
from components.attacks.square import square
from components.tensors import Images

ATTACKS: dict[str, Callable[..., Images]] = {
    "apgd": apgd,
    "apgd_targeted": apgd_targeted,
    "bim": bim,
    "carlini_wagner": carlini_wagner,
    "deepfool": deepfool,
    "fab": fab,
    "fgsm": fgsm,
    "fmn": fmn,
    "hop_skip_jump": hop_skip_jump,
    "mim": mim,
    "mm": mm_attack,
    "pgd": pgd,
    "random_noise": random_noise,
    "spsa": spsa,
    "square": square,
}
