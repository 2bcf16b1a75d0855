"""Table RECIPES: name -> complete settings in Python."""

from pipelines.recipe import Recipe
from pipelines.recipes.digits import DIGITS
from pipelines.recipes.tiny import TINY

RECIPES: dict[str, Recipe] = {
    "digits": DIGITS,
    "tiny": TINY,
}
