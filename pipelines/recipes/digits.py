"""1,797 real handwritten digits, LeNet-5: minutes on two cores."""

from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.pruning.config import PruningConfig
from components.registry.config import PromotionConfig
from components.training.config import TrainingConfig
from pipelines.recipe import TrainRobustRecipe

# At this radius stage one, which has seen clean images alone, withstands almost nothing.
EPSILON = 0.15

# Few steps per batch, for training is on the clock; the evaluation takes many.
_TRAINING_ATTACK = {"name": "pgd", "epsilon": EPSILON, "steps": 3, "keep": "last"}
_SHIFT = {"name": "crop_and_flip", "padding": 2, "flip_probability": 0.0}

DIGITS = TrainRobustRecipe(
    about="1,797 real handwritten digits, LeNet-5; minutes on two cores",
    data=DataConfig(source={"name": "digits"}, image_size=28),
    stage_one=TrainingConfig(
        backbone={"name": "lenet5"},
        objective={"name": "cross_entropy"},
        augmentations=(_SHIFT,),
        epochs=12,
    ),
    stage_two=TrainingConfig(
        defences=({"name": "random_resize_pad"},),
        objective={"name": "cross_entropy"},
        augmentations=(_SHIFT,),
        epochs=4,
        learning_rate=5e-4,
    ),
    adversarial=TrainingConfig(
        objective={"name": "adversarial", "attack": _TRAINING_ATTACK},
        selection={"name": "pgd", "epsilon": EPSILON, "steps": 10, "keep": "first"},
        epochs=25,
        learning_rate=2e-3,
        schedule={"name": "one_cycle"},
        batch_size=32,
    ),
    # A thousand images make few steps: fast gates, and a prior that weighs less per image.
    pruning=PruningConfig(
        attack=_TRAINING_ATTACK,
        epochs=12,
        initial_keep_probability=0.8,
        kl_weight=0.2,
        vulnerability_weight=1.0,
        gate_learning_rate=0.5,
        learning_rate=3e-3,
    ),
    # Every attack on every image, so that each has a column of its own.
    evaluation=EvaluationConfig(
        epsilon=EPSILON,
        suite=(
            {"name": "fgsm"},
            {"name": "pgd", "steps": 20},
            {"name": "mm"},  # finds what twenty steps of PGD miss, a tenth of the images here
            {"name": "random_noise"},
        ),
        survivors_only=False,
        view_draws=4,
    ),
    promotion=PromotionConfig(model_name="digits"),
)
