"""Table RECIPES: name -> complete settings in Python.

Data that is not in a library lies below ``data/`` of the current folder unless
``data.source.root`` says otherwise.
"""

from pipelines.recipe import Recipe
from pipelines.recipes.anp_vs import (
    ANP_VS_CIFAR10,
    ANP_VS_MNIST,
    ANP_VS_MNIST_SMALL,
    ANP_VS_TINY,
)
from pipelines.recipes.digits import DIGITS
from pipelines.recipes.fpd import FPD_MNIST, FPD_SMALL, FPD_SVHN
from pipelines.recipes.gcm import GCM, GCM_ML_DECODER, GCM_PHASE_ONE, GCM_SMALL
from pipelines.recipes.part import PART, PART_CONTROLS, PART_CONTROLS_SMALL, PART_SMALL
from pipelines.recipes.retrain import EVALUATE_DIGITS, RETRAIN_DIGITS, RETRAIN_TINY
from pipelines.recipes.tiny import TINY

RECIPES: dict[str, Recipe] = {
    "digits": DIGITS,
    "tiny": TINY,
    "retrain_digits": RETRAIN_DIGITS,
    "retrain_tiny": RETRAIN_TINY,
    "evaluate_digits": EVALUATE_DIGITS,
    "gcm": GCM,
    "gcm_ml_decoder": GCM_ML_DECODER,
    "gcm_phase_one": GCM_PHASE_ONE,
    "gcm_small": GCM_SMALL,
    "part": PART,
    "part_controls": PART_CONTROLS,
    "part_small": PART_SMALL,
    "part_controls_small": PART_CONTROLS_SMALL,
    "fpd_mnist": FPD_MNIST,
    "fpd_svhn": FPD_SVHN,
    "fpd_small": FPD_SMALL,
    "anp_vs_mnist": ANP_VS_MNIST,
    "anp_vs_mnist_small": ANP_VS_MNIST_SMALL,
    "anp_vs_cifar10": ANP_VS_CIFAR10,
    "anp_vs_tiny": ANP_VS_TINY,
}
