"""Gradient concealment behind random resize-pad: the challenge's two stages.

Pei et al., 2022, https://arxiv.org/abs/2205.10617. What the published code leaves open (how long
the stages are, and what they start with) is ours, and so are the two stages of the first phase and
the normalisation of pixels within the model. Concealment is in the model from the first stage, as
there; what it is worth, the honest view says.
"""

from dataclasses import replace

from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.registry.config import PromotionConfig
from components.training.config import TrainingConfig
from pipelines.recipe import FineTuneRecipe
from pipelines.recipes import chains

_CONCEALED = ({"name": "gradient_concealment"},)
_FIXED = ({"name": "random_resize_pad", "fixed": True, "min_size": 218 / 224},)
_PADDED = ({"name": "random_resize_pad", "form": "published", "min_size": 218 / 224}, *_CONCEALED)

_STAGE = TrainingConfig(
    backbone={"name": "convnext_tiny", "head": "mlp"},
    defences=_CONCEALED,
    objective={"name": "cutmix_and_mixup"},
    augmentations=chains.PUBLISHED,
    epochs=300,
    optimizer={"name": "adamax"},
    learning_rate=1e-4,
    head_learning_rate=1e-3,
    schedule={"name": "step", "every": 70, "factor": 0.5},
    weight_decay=1e-3,
    batch_size=320,
)

GCM = FineTuneRecipe(
    about="gradient concealment, ConvNeXt-tiny, the 100 classes of the challenge's second phase",
    data=DataConfig(
        source={"name": "challenge_json", "root": "data/phase2"},
        image_size=224,
        resize="crop",
        keep_larger=True,
    ),
    stage_one=_STAGE,
    stage_two=replace(_STAGE, backbone=None, defences=_PADDED),
    evaluation=EvaluationConfig(
        epsilon=8 / 255, suite=({"name": "paper"},), survivors_only=False, num_images=1000
    ),
    promotion=PromotionConfig(model_name="gcm"),
)
GCM_ML_DECODER = replace(
    GCM,
    about="the same with ML-Decoder as head",
    stage_one=replace(_STAGE, backbone={"name": "convnext_tiny", "head": "ml_decoder"}),
    promotion=PromotionConfig(model_name="gcm_ml_decoder"),
)

_PHASE_ONE = replace(
    _STAGE,
    backbone={"name": "se_resnet", "depth": 18, "head": "ml_decoder"},
    defences=(),
    objective={"name": "fgsm_regularised"},
    augmentations=chains.FIRST_PHASE,
    learning_rate=1e-3,
    head_learning_rate=None,
    batch_size=128,
)
GCM_PHASE_ONE = replace(
    GCM,
    about="FGSM regularisation, SE-ResNet-18, a resize-pad without chance, the 20 classes of the "
    "challenge's first phase",
    data=replace(GCM.data, source={"name": "label_file", "root": "data/phase1"}),
    stage_one=_PHASE_ONE,
    stage_two=replace(_PHASE_ONE, backbone=None, defences=_FIXED),
    promotion=PromotionConfig(model_name="gcm_phase_one"),
)

# ConvNeXt with fewer and narrower blocks, and digits for what two cores do in minutes.
_SMALL = replace(
    _STAGE,
    backbone={
        "name": "convnext_tiny",
        "head": "mlp",
        "depths": [1, 1, 2, 1],
        "widths": [24, 48, 96, 192],
    },
    augmentations=chains.PUBLISHED[1:],
    epochs=20,
    learning_rate=2e-3,
    head_learning_rate=2e-3,
    schedule={"name": "cosine"},
    batch_size=64,
)
GCM_SMALL = FineTuneRecipe(
    about="gradient concealment, a small ConvNeXt, 1,797 handwritten digits; minutes on two cores",
    data=DataConfig(source={"name": "digits"}, image_size=32),
    stage_one=_SMALL,
    stage_two=replace(
        _SMALL,
        backbone=None,
        defences=({"name": "random_resize_pad", "min_size": 0.85}, *_CONCEALED),
        epochs=10,
        learning_rate=1e-3,
        head_learning_rate=1e-3,
    ),
    evaluation=EvaluationConfig(
        epsilon=0.1,
        suite=({"name": "fgsm"}, {"name": "pgd", "steps": 20}, {"name": "mm"}),
        survivors_only=False,
        view_draws=4,
    ),
    promotion=PromotionConfig(model_name="gcm_small"),
)
