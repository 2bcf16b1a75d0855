"""Feature pyramid decoder and adversarial training, each alone and together.

Li et al., 2020, https://arxiv.org/abs/2005.02552. Differs from the published code: an attack
shakes every arm from its first step, with fresh weights and the rate of the clean arms, where MNIST
had ten clean epochs before it and SVHN went on from the trained decoder at a tenth of the rate;
labels are the true ones; what is restored is always the clean image. Grey images have one channel
and are not jittered, and rotation keeps their size. Pixels are normalised within the model, and the
trunk is timm's, whose residual branches start at zero.
"""

from dataclasses import replace
from typing import Any

from components.config import Choice
from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.study.config import StudyConfig
from components.training.config import TrainingConfig
from pipelines.recipe import StudyRecipe


def _arms(
    stage: TrainingConfig,
    decoder: dict[str, Any],
    second: str,
    attack: Choice,
    clean_share: float = 0.0,
    **attacked: Any,
) -> dict[str, TrainingConfig]:
    """Give the network alone and behind the decoder, trained on clean and on attacked images.

    Args:
        stage: with the decoder's network, and clean images.
        decoder: its options.
        second: its second phase.
        attack: that two arms train against.
        clean_share: of their losses.
        attacked: what else is other with them.
    """
    backbone = {key: value for key, value in (stage.backbone or {}).items() if key != "activation"}
    alone = replace(stage, backbone=backbone)
    behind = replace(stage, defences=({"name": "feature_pyramid_decoder", **decoder},))
    restoration = {"name": "restoration", "noise": 0.01, "threshold": 3.0, "second": second}
    against = {"attack": attack, "clean_share": clean_share}
    # What has never seen an attack withstands most as long as it has learnt nothing.
    return {
        "plain": replace(alone, objective={"name": "cross_entropy"}, selection=None),
        "decoder": replace(behind, objective=restoration, selection=None),
        "adversarial": replace(alone, objective={"name": "adversarial", **against}, **attacked),
        "decoder_adversarial": replace(behind, objective={**restoration, **against}, **attacked),
    }


def _pgd(epsilon: float, step_size: float, steps: int = 40) -> Choice:
    return {
        "name": "pgd",
        "epsilon": epsilon,
        "step_size": step_size,
        "steps": steps,
        "keep": "last",
    }


_PUBLISHED = TrainingConfig(
    backbone={"name": "timm", "model": "resnet101", "activation": "elu"},
    objective={"name": "cross_entropy"},
    selection={**_pgd(0.3, 0.02, steps=20), "keep": "first"},
    epochs=100,
    optimizer={"name": "adamax"},
    learning_rate=1e-3,
    schedule={"name": "plateau", "patience": 10},
    weight_decay=1e-5,
    clip_norm=10.0,
    patience=20,
    batch_size=300,
)

# The rate cannot fall before such a training ends, and as published it does not.
_ATTACKED: dict[str, Any] = {"schedule": {"name": "plateau", "patience": 15}, "patience": 10}

# The published second pass through the trunk has its own statistics in neither set; ours has, for
# restored images are not distributed as raw ones. Its second phase is an update of its own.
FPD_MNIST = StudyRecipe(
    about="feature pyramid decoder, ResNet-101, MNIST at 64 pixels, settings as published",
    data=DataConfig(source={"name": "mnist", "root": "data/mnist"}, image_size=64),
    arms=_arms(
        replace(_PUBLISHED, augmentations=({"name": "rotate", "degrees": 15.0, "probability": 1},)),
        {"width": 256, "trunk": "own_norms", "image_size": 64},
        "recomputed",
        _pgd(0.3, 0.01),
        clean_share=0.5,
        batch_size=200,
        **_ATTACKED,
    ),
    study=StudyConfig(seeds=(0, 1, 2)),
    evaluation=EvaluationConfig(epsilon=0.3, suite=({"name": "standard"},)),
)
FPD_SVHN = replace(
    FPD_MNIST,
    about="feature pyramid decoder, ResNet-101, SVHN at 64 pixels, settings as published",
    data=DataConfig(source={"name": "svhn", "root": "data/svhn"}, image_size=64),
    arms=_arms(
        replace(
            _PUBLISHED,
            selection={**_pgd(8 / 255, 2 / 255, steps=10), "keep": "first"},
            optimizer={"name": "adam"},
            learning_rate=1e-4,
            weight_decay=0.0,
            clip_norm=5.0,
        ),
        {"width": 256, "trunk": "own_norms", "dropout": 0.5, "image_size": 64},
        "recomputed",
        _pgd(8 / 255, 2 / 255),
        clean_share=0.5,
        batch_size=64,
        **_ATTACKED,
    ),
    evaluation=EvaluationConfig(epsilon=8 / 255, suite=({"name": "standard"},)),
)

# A narrow network and digits, for what two cores do in minutes. Its first layer is normalised, as
# the published one's: what the decoder's denoising makes of features grows with their third power.
FPD_SMALL = StudyRecipe(
    about="feature pyramid decoder, narrow ResNet-18, 1,797 digits; minutes on two cores",
    data=DataConfig(source={"name": "digits"}, image_size=16),
    arms=_arms(
        TrainingConfig(
            backbone={"name": "resnet18", "widths": [8, 16, 32, 64]},
            objective={"name": "cross_entropy"},
            selection={**_pgd(0.15, 0.04, steps=10), "keep": "first"},
            epochs=20,
            learning_rate=2e-3,
            schedule={"name": "one_cycle"},
            clip_norm=10.0,
            batch_size=32,
        ),
        {"width": 16, "trunk": "own_norms", "image_size": 16},
        "summed",
        _pgd(0.15, 0.06, steps=3),
    ),
    study=StudyConfig(seeds=(0, 1, 2)),
    evaluation=EvaluationConfig(
        epsilon=0.15, suite=({"name": "pgd", "steps": 20}, {"name": "mm"}), survivors_only=False
    ),
)
