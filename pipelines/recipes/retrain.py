"""The digits' champion trained again, and attacked again."""

from dataclasses import replace

from components.registry.config import FetchConfig, RenewalConfig
from pipelines.recipe import EvaluateModelRecipe, RetrainRecipe
from pipelines.recipes.digits import DIGITS
from pipelines.recipes.tiny import TINY

RETRAIN_DIGITS = RetrainRecipe(
    about="the champion of digits trained onwards, once there is anything new",
    data=DIGITS.data,
    renewal=RenewalConfig(),
    training=replace(DIGITS.adversarial, backbone=DIGITS.stage_one.backbone),
    evaluation=DIGITS.evaluation,
    promotion=DIGITS.promotion,
)
RETRAIN_TINY = replace(
    RETRAIN_DIGITS,
    about="the same cut down to a minute, from fresh weights if need be",
    training=replace(RETRAIN_DIGITS.training, epochs=2),
    evaluation=TINY.evaluation,
    promotion=TINY.promotion,
)
EVALUATE_DIGITS = EvaluateModelRecipe(
    about="the champion of digits attacked again, by AutoAttack's four",
    data=DIGITS.data,
    fetch=FetchConfig(model=f"models:/{DIGITS.promotion.model_name}@champion"),
    evaluation=replace(DIGITS.evaluation, suite=({"name": "standard"},), survivors_only=True),
)
