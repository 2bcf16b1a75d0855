"""The digits recipe cut down to a minute, for trying the pipeline out and for its tests."""

from dataclasses import replace

from pipelines.recipes.digits import DIGITS

TINY = replace(
    DIGITS,
    about="digits cut down to a minute, for trying the pipeline out",
    stage_one=replace(DIGITS.stage_one, epochs=2),
    stage_two=replace(DIGITS.stage_two, epochs=1),
    adversarial=replace(DIGITS.adversarial, epochs=2),
    pruning=replace(DIGITS.pruning, epochs=2),
    evaluation=replace(DIGITS.evaluation, num_images=64),
    promotion=replace(DIGITS.promotion, model_name="tiny"),
)
