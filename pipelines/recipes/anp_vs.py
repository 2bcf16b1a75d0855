"""Adversarial neural pruning with vulnerability suppression, beside all that it is compared with.

Madaan et al., 2020, https://arxiv.org/abs/1908.04355. ADMM, TRADES and pretrained adversarial
training have no published settings; theirs here are ours, and what is pretrained is Standard. The
published tables take the last epoch of every mode. Here trainings keep the one that is best on the
validation split, and what prunes keeps its last, since only then it is settled what is cut.
"""

from dataclasses import replace
from typing import Any

from components.config import Choice
from components.data.config import DataConfig
from components.evaluation.config import EvaluationConfig
from components.pruning.config import PruningConfig
from components.study.config import ReproductionConfig
from components.training.config import TrainingConfig
from pipelines.recipe import ReproduceAnpVsRecipe

_MIXTURE = 1 / 3  # clean loss beside twice the adversarial loss


def _modes(
    stage: TrainingConfig,
    gates: PruningConfig,
    attack: dict[str, Any],
    *,
    suppression: float,
    trades_beta: float,
    bayesian: dict[str, Any],
    admm: dict[str, Any],
    precision: str | None = None,
) -> dict[str, Any]:
    """Give every mode of the tables.

    Args:
        stage: adversarial training, but for its objective.
        gates: ANP-VS, but for its precision.
        attack: of all modes; ``epsilon``, ``steps`` and ``step_size``.
        suppression: lambda.
        trades_beta: of TRADES.
        bayesian: options of the Bayesian layers.
        admm: options of ADMM.
        precision: of the copies that are attacked.
    """
    gates = replace(gates, precision=precision)
    crafted: Choice = {"name": "ascent", **attack, "start": "ball"}
    climbed: Choice = {"name": "ascent", **attack, "start": "near"}
    common = {"attack": crafted, "precision": precision}
    plain = {"name": "adversarial", "clean_share": _MIXTURE, **common}
    suppressed = {"name": "vulnerability_suppression", "weight": suppression, **common}
    adversarial = replace(stage, objective=plain)
    trades = {"name": "trades", "attack": climbed, "beta": trades_beta, "precision": precision}
    return {
        "source": adversarial,
        "standard": replace(stage, objective={"name": "cross_entropy"}, selection=None),
        "at": adversarial,
        "at_vs": replace(stage, objective=suppressed),
        "at_bnn": replace(
            stage, objective={"name": "bayesian", **common, **bayesian}, weight_decay=0.0
        ),
        "pretrained_at": replace(adversarial, backbone=None),
        "trades": replace(stage, objective=trades),
        "anp_vs": gates,
        "anp": replace(gates, vulnerability_weight=0.0),
        "bp": replace(gates, attack=None, kl_weight=1.0, vulnerability_weight=0.0),
        "admm": replace(
            gates,
            method={"name": "admm", **admm},
            epochs=stage.epochs,
            vulnerability_weight=0.0,
            drops=(0.8, 0.9),  # both within the fine-tuning after the cut
        ),
    }


_MNIST = DataConfig(source={"name": "mnist", "root": "data/mnist"}, keep_repeated=True)
_MNIST_BALL = {"epsilon": 0.3, "step_size": 0.01}
_MNIST_COLUMNS: Choice = {"name": "pgd", **_MNIST_BALL, "steps": 40, "keep": "last"}
_MNIST_ATTACK = {**_MNIST_BALL, "steps": 20}

ANP_VS_MNIST = ReproduceAnpVsRecipe(
    about="ANP-VS and all that it is compared with, MNIST, LeNet5-Caffe, as published",
    data=_MNIST,
    **_modes(
        TrainingConfig(
            backbone={"name": "lenet5"},
            objective={"name": "cross_entropy"},
            selection={**_MNIST_COLUMNS, "keep": "first"},
            epochs=200,
            schedule={"name": "step", "milestones": [100, 140]},
            weight_decay=1e-4,
        ),
        PruningConfig(
            attack={"name": "pgd", **_MNIST_ATTACK, "keep": "last"},
            epochs=200,
            kl_weight=4.0,
            vulnerability_weight=1e-3,
        ),
        _MNIST_ATTACK,
        suppression=1e-3,
        trades_beta=1.0,
        bayesian={"prior_deviation": 1.0, "initial_rho": -3.0, "kl_weight": 1 / (100 * 60_000)},
        admm={"sparsity": 0.8},
    ),
    reproduction=ReproductionConfig(table="mnist", attack=_MNIST_COLUMNS, seeds=(0, 1, 2, 3, 4)),
    evaluation=EvaluationConfig(epsilon=0.3, suite=({"name": "standard"},)),
)

_SMALL_ATTACK = {"epsilon": 0.3, "step_size": 0.1, "steps": 5}

ANP_VS_MNIST_SMALL = ReproduceAnpVsRecipe(
    about="the same on a short schedule: two or three hours",
    data=_MNIST,
    **_modes(
        TrainingConfig(
            backbone={"name": "lenet5"},
            objective={"name": "cross_entropy"},
            selection={"name": "pgd", "epsilon": 0.3, "steps": 10, "keep": "first"},
            epochs=4,
            learning_rate=2e-3,
            schedule={"name": "one_cycle"},
            weight_decay=1e-4,
            batch_size=128,
        ),
        # Units close within epochs instead of hundreds: gates start open, wait until the weights
        # have begun to withstand the attack, and are pressed harder, most of all where few units
        # are most of the operations.
        PruningConfig(
            method={"name": "gates", "kl_scales": {"conv1": 8.0, "conv2": 3.0}},
            attack={"name": "pgd", **_SMALL_ATTACK, "keep": "last"},
            epochs=16,
            initial_keep_probability=0.9,
            gate_delay_epochs=2.0,
            kl_weight=7.0,
            vulnerability_weight=1e-3,
            gate_learning_rate=5e-2,
            learning_rate=2e-3,
            drops=(0.55, 0.8),
        ),
        _SMALL_ATTACK,
        suppression=1e-3,
        trades_beta=1.0,
        bayesian={"prior_deviation": 1.0, "initial_rho": -3.0, "kl_weight": 1 / (100 * 60_000)},
        admm={"sparsity": 0.8},
        precision="auto",
    ),
    reproduction=ReproductionConfig(
        table="mnist", attack=_MNIST_COLUMNS, seeds=(0,), num_images=2000
    ),
    evaluation=EvaluationConfig(epsilon=0.3, suite=({"name": "fast"},), num_images=500),
)

_CIFAR_ATTACK = {"epsilon": 0.03, "step_size": 0.007, "steps": 10}
_CIFAR_COLUMNS: Choice = {"name": "pgd", **_CIFAR_ATTACK, "steps": 40, "keep": "last"}
_SHIFT: Choice = {"name": "crop_and_flip", "padding": 4, "flip_probability": 0.5}

# Epsilon is in pixel units, where the published code has it in units of the standardised image.
ANP_VS_CIFAR10 = ReproduceAnpVsRecipe(
    about="ANP-VS and all that it is compared with, CIFAR-10, VGG16, as published",
    data=DataConfig(source={"name": "cifar10", "root": "data/cifar10"}, keep_repeated=True),
    **_modes(
        TrainingConfig(
            backbone={"name": "vgg16"},
            objective={"name": "cross_entropy"},
            augmentations=(_SHIFT,),
            selection={**_CIFAR_COLUMNS, "steps": 10, "keep": "first"},
            epochs=200,
            schedule={"name": "step", "milestones": [100, 160]},
            weight_decay=1e-4,
        ),
        PruningConfig(
            attack={"name": "pgd", **_CIFAR_ATTACK, "keep": "last"},
            augmentations=(_SHIFT,),
            epochs=200,
            kl_weight=2.0,
            vulnerability_weight=1e-4,
            drops=(0.5, 0.8),
            forwards="separate",
        ),
        _CIFAR_ATTACK,
        suppression=1e-4,
        trades_beta=6.0,
        bayesian={"prior_deviation": 0.1, "initial_rho": -5.0, "kl_weight": 1 / (100 * 50_000)},
        admm={"sparsity": 0.75},
    ),
    reproduction=ReproductionConfig(table="cifar10", attack=_CIFAR_COLUMNS, seeds=(0, 1, 2, 3, 4)),
    evaluation=EvaluationConfig(epsilon=0.03, suite=({"name": "standard"},)),
)

_TINY_ATTACK = {"epsilon": 0.15, "step_size": 0.1, "steps": 2}

ANP_VS_TINY = ReproduceAnpVsRecipe(
    about="the same steps on the digits, a few minutes, for trying the pipeline out",
    data=DataConfig(source={"name": "digits"}, image_size=28),
    **_modes(
        replace(ANP_VS_MNIST_SMALL.at, selection=None, epochs=2, batch_size=64),
        replace(
            ANP_VS_MNIST_SMALL.anp_vs,
            attack={"name": "pgd", **_TINY_ATTACK, "keep": "last"},
            epochs=2,
            gate_delay_epochs=0.0,
            gate_learning_rate=0.5,
            kl_weight=0.2,
        ),
        _TINY_ATTACK,
        suppression=1e-3,
        trades_beta=1.0,
        bayesian={"kl_weight": 1 / (100 * 1_500)},
        admm={"sparsity": 0.8},
    ),
    reproduction=ReproductionConfig(
        table="mnist",
        attack={"name": "pgd", "epsilon": 0.15, "steps": 10, "keep": "last"},
        seeds=(0,),
        num_images=64,
    ),
    evaluation=EvaluationConfig(
        epsilon=0.15, suite=({"name": "pgd", "steps": 20},), num_images=32, survivors_only=False
    ),
)
