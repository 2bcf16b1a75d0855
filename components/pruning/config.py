"""What can be set when a model is pruned."""

from dataclasses import dataclass, field
from typing import Annotated

from components.config import Choice, Config, OneOf, Range


@dataclass(frozen=True, kw_only=True)
class PruningConfig(Config):
    """Which units or weights go, learnt under attack; then closed units are cut out.

    Defaults are those of Madaan et al. (ICML 2020) for MNIST where they do not depend on the
    number of training images. Without an attack it is their Bayesian pruning, with a
    vulnerability weight of 0 their ANP, as it stands ANP-VS.

    Attributes:
        method: an entry of METHODS with its options: ``gates``; ``dependent_gates``, which close
            other units for each image; or ``admm``, to which settings of gates mean nothing.
        attack: crafts the adversarial images that are learnt on; None learns on clean images.
        precision: of the copies that are attacked: ``float32``, ``bfloat16``, ``auto`` for bfloat16
            where the processor has it, or None for no copy.
        augmentations: entries of AUGMENTATIONS, applied in this order.
        epochs: passes over the training split.
        initial_keep_probability: of every unit; a higher one keeps more of what the model knows and
            takes longer to close. None is as published: 0.6802 before BatchNorm, else 0.2386.
        gate_delay_epochs: in which only the weights learn, behind gates that stay as they began.
        kl_weight: beta, the weight of the gates' divergence from their prior.
        kl_warmup_epochs: after the delay, over which beta rises from zero along a straight line.
        vulnerability_weight: lambda, the weight of the vulnerability suppression loss.
        vulnerability_form: mean or sum over the units of a feature, or relative to its size.
        skip_first_feature: whether the first feature counts without a gradient, as published.
        gate_loss: what the gates minimise besides the divergence: the adversarial loss, the
            mixture of clean and adversarial loss that the weights minimise, or that mixture and
            the vulnerability.
        noise: whether clean and adversarial images see gates drawn alike.
        forwards: whether clean and adversarial images pass as one batch, or as two that BatchNorm
            normalises each by itself and that also share the noise of dropout.
        gate_learning_rate: of the gates' own Adam.
        learning_rate: of the weights' Adam.
        drops: shares of all steps after which both learning rates fall to a tenth; the published
            ones for VGG16 are 0.5 and 0.8.
        weight_decay: coupled, on the weights alone.
        threshold: a unit whose expected keep probability is not above it is cut out.
        state_seconds: how often the state of pruning is kept within an epoch.
        batch_size: images per step.
        seed: of shuffling, gates, augmentations and attacks.
    """

    method: Choice = field(default_factory=lambda: {"name": "gates"})
    attack: Choice | None
    precision: Annotated[str | None, OneOf("auto", "bfloat16", "float32")] = None
    augmentations: tuple[Choice, ...] = ()
    epochs: Annotated[int, Range(at_least=0)] = 200
    initial_keep_probability: Annotated[float | None, Range(at_least=0.01, at_most=0.99)] = None
    gate_delay_epochs: Annotated[float, Range(at_least=0)] = 0.0
    kl_weight: Annotated[float, Range(at_least=0)] = 4.0
    kl_warmup_epochs: Annotated[float, Range(at_least=0)] = 0.0
    vulnerability_weight: Annotated[float, Range(at_least=0)] = 1e-3
    vulnerability_form: Annotated[str, OneOf("mean", "sum", "relative")] = "mean"
    skip_first_feature: bool = False
    gate_loss: Annotated[str, OneOf("adversarial", "mixture", "mixture_and_vulnerability")] = (
        "adversarial"
    )
    noise: Annotated[str, OneOf("shared", "independent")] = "shared"
    forwards: Annotated[str, OneOf("joint", "separate")] = "joint"
    gate_learning_rate: Annotated[float, Range(above=0)] = 1e-2
    learning_rate: Annotated[float, Range(above=0)] = 1e-3
    drops: tuple[float, ...] = (0.5, 0.7)
    weight_decay: Annotated[float, Range(at_least=0)] = 1e-4
    threshold: Annotated[float, Range(above=0, below=1)] = 1e-3
    state_seconds: Annotated[float, Range(at_least=0)] = 300.0
    batch_size: Annotated[int, Range(at_least=1)] = 64
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not 0 < share < 1 for share in self.drops):
            raise ValueError(f"drops must lie between 0 and 1, got {list(self.drops)}")
        if self.attack is None and self.vulnerability_weight:
            raise ValueError("vulnerability_weight must be 0 where nothing attacks")
