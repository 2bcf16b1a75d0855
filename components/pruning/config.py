"""What can be set when a model is pruned."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, OneOf, Range


@dataclass(frozen=True, kw_only=True)
class PruningConfig(Config):
    """Beta-Bernoulli gates learnt under attack, then closed units cut out.

    Defaults are those of Madaan et al. (ICML 2020) for MNIST where they do not depend on the
    number of training images.

    Attributes:
        attack: crafts the adversarial images the gates are learnt on.
        epochs: passes over the training split with gates in place.
        initial_keep_probability: of every unit; a higher one keeps more of what the model knows and
            takes longer to close.
        kl_weight: beta, the weight of the gates' divergence from their prior.
        vulnerability_weight: lambda, the weight of the vulnerability suppression loss.
        gate_loss: what the gates minimise besides the divergence: the adversarial loss, or the
            mixture of clean and adversarial loss that the weights minimise.
        gate_learning_rate: of the gates' own Adam.
        learning_rate: of the weights' Adam.
        weight_decay: coupled, on the weights alone.
        threshold: a unit whose expected keep probability is not above it is cut out.
        batch_size: images per step.
        seed: of shuffling, gates and attacks.
    """

    attack: Choice
    epochs: Annotated[int, Range(at_least=0)] = 200
    initial_keep_probability: Annotated[float, Range(at_least=0.01, at_most=0.99)] = 0.2386
    kl_weight: Annotated[float, Range(at_least=0)] = 4.0
    vulnerability_weight: Annotated[float, Range(at_least=0)] = 1e-3
    gate_loss: Annotated[str, OneOf("adversarial", "mixture")] = "adversarial"
    gate_learning_rate: Annotated[float, Range(above=0)] = 1e-2
    learning_rate: Annotated[float, Range(above=0)] = 1e-3
    weight_decay: Annotated[float, Range(at_least=0)] = 1e-4
    threshold: Annotated[float, Range(above=0, below=1)] = 1e-3
    batch_size: Annotated[int, Range(at_least=1)] = 64
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0
