"""Table RECIPES: name -> complete settings in Python.

Data that is not in a library lies below ``data/`` of the current folder unless
``data.source.root`` says otherwise.
"""

from pipelines.recipe import Recipe
from pipelines.recipes.digits import DIGITS
from pipelines.recipes.fpd import FPD_MNIST, FPD_SMALL, FPD_SVHN
from pipelines.recipes.gcm import GCM, GCM_ML_DECODER, GCM_PHASE_ONE, GCM_SMALL
from pipelines.recipes.part import PART, PART_CONTROLS, PART_CONTROLS_SMALL, PART_SMALL
from pipelines.recipes.tiny import TINY

RECIPES: dict[str, Recipe] = {
    "digits": DIGITS,
    "tiny": TINY,
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
}
