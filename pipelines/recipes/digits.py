"""1,797 real handwritten digits, LeNet-5: minutes on two cores."""

from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.pruning.config import PruningConfig
from components.registry.config import PromotionConfig
from components.training.config import TrainingConfig
from pipelines.recipe import TrainRobustRecipe

# At this radius the stage that was trained on clean images alone withstands almost nothing.
EPSILON = 0.2

_SHIFT = {"name": "crop_and_flip", "padding": 2, "flip_probability": 0.0}
_VALIDATION_ATTACK = {"name": "pgd", "epsilon": EPSILON, "steps": 10, "keep": "first"}

DIGITS = TrainRobustRecipe(
    about="1,797 real handwritten digits, LeNet-5; minutes on two cores",
    data=DataConfig(source={"name": "digits"}, image_size=28),
    stage_one=TrainingConfig(
        backbone={"name": "lenet5"},
        objective={"name": "cross_entropy"},
        augmentations=(_SHIFT,),
        epochs=15,
    ),
    stage_two=TrainingConfig(
        defences=({"name": "random_resize_pad"},),
        objective={"name": "cross_entropy"},
        augmentations=(_SHIFT,),
        epochs=5,
        learning_rate=5e-4,
    ),
    adversarial=TrainingConfig(
        objective={
            "name": "adversarial",
            "attack": {"name": "pgd", "epsilon": EPSILON, "steps": 7, "keep": "last"},
        },
        selection=_VALIDATION_ATTACK,
        augmentations=(_SHIFT,),
        epochs=40,
    ),
    pruning=PruningConfig(
        attack={"name": "pgd", "epsilon": EPSILON, "steps": 7, "keep": "last"},
        epochs=25,
        gate_learning_rate=5e-2,
    ),
    evaluation=EvaluationConfig(epsilon=EPSILON),
    promotion=PromotionConfig(model_name="digits"),
)
