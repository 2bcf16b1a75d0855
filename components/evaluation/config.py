"""What can be set when a model's robustness is measured."""

from dataclasses import dataclass
from typing import Annotated

from components.config import Choice, Config, OneOf, Range, unknown
from components.evaluation.suites import attack_label, expand

CORRUPTION_NAMES = (
    *("fog", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "defocus_blur"),
    *("motion_blur", "zoom_blur", "frost", "snow", "spatter", "contrast", "brightness"),
    *("saturate", "compress", "pixelate", "elastic"),
)
"""The keys of CORRUPTIONS, which settings must know without loading torch."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """The threat model and the attacks on the test split.

    Attributes:
        epsilon: radius of the ball in pixel units.
        norm: of the ball.
        suite: attacks by name with their options, and suites by name, which stand for theirs.
            Radius and norm are those of the threat model; an attack may name a wider ball of its
            own.
        survivors_only: attack in sequence, each attack only the images that withstood those before
            it, as AutoAttack does; otherwise every attack tries every image that is classified
            correctly, so that each has an accuracy of its own. Randomised models are always
            attacked the second way.
        draws: forward passes per image with which a randomised model is judged.
        view_draws: draws that the honest view of a randomised model averages per gradient; more
            make a stronger attack.
        precision: in which attacks search; every image found is judged in float32 by the model
            itself. ``auto`` takes bfloat16 where the processor has it.
        thorough: also run the checks that cost as much as attacks.
        corruptions: operations by name with which the images are also spoiled, at five severities
            each, or ``all``; no attacks, but what bad weather, lenses and compression do.
        budget_seconds: stop attacking when so much time has passed, and say what was left out;
            0 sets no limit.
        batch_size: images per forward pass.
        num_images: how many test images are attacked, the first of the split; 0 takes all.
        seed: of every attack and of a randomised model's draws.
    """

    epsilon: Annotated[float, Range(above=0)]
    norm: Annotated[str, OneOf("linf", "l2", "l1")] = "linf"
    suite: tuple[Choice, ...] = ({"name": "fast"},)
    survivors_only: bool = True
    draws: Annotated[int, Range(at_least=2)] = 20
    view_draws: Annotated[int, Range(at_least=1)] = 8
    precision: Annotated[str, OneOf("auto", "float32", "bfloat16")] = "auto"
    thorough: bool = False
    corruptions: tuple[str, ...] = ()
    budget_seconds: Annotated[float, Range(at_least=0)] = 0.0
    batch_size: Annotated[int, Range(at_least=1)] = 256
    num_images: Annotated[int, Range(at_least=0)] = 0
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "linf" and self.epsilon > 1:
            raise ValueError(
                f"epsilon must be at most 1 for linf and pixels in [0, 1], got {self.epsilon:g}"
            )
        if not self.suite:
            raise ValueError("suite must name at least one attack")
        names = [attack_label(choice) for choice in self.attacks]
        if len(set(names)) < len(names):
            raise ValueError(f"suite must not name two attacks alike, got {names}")
        self._check_threat_models()
        if "all" in self.corruptions and len(self.corruptions) > 1:
            raise ValueError(
                f"corruptions must be all by itself, or names, got {list(self.corruptions)}"
            )
        for name in self.spoiled_by:
            if name not in CORRUPTION_NAMES:
                raise ValueError(unknown("corruption", name, ("all", *CORRUPTION_NAMES)))
        if len(set(self.corruptions)) < len(self.corruptions):
            raise ValueError(f"corruptions must not name one twice, got {list(self.corruptions)}")
        if self.survivors_only and any(word["name"] == "paper" for word in self.suite):
            raise ValueError(
                "the suite paper gives each attack a column of its own: set survivors_only to false"
            )

    @property
    def attacks(self) -> tuple[Choice, ...]:
        """The attacks of the suite, named suites unfolded."""
        return tuple(expand(self.suite))

    @property
    def spoiled_by(self) -> tuple[str, ...]:
        """The corruptions by name, ``all`` unfolded."""
        return CORRUPTION_NAMES if self.corruptions == ("all",) else self.corruptions

    def _check_threat_models(self) -> None:
        """Refuse attacks in a smaller ball: what withstands them says nothing about this one."""
        for choice in self.attacks:
            smaller = choice.get("norm", self.norm) == self.norm and (
                choice.get("epsilon") is not None and choice["epsilon"] < self.epsilon
            )
            if smaller:
                raise ValueError(
                    f"suite attacks with {choice['name']} at epsilon {choice['epsilon']:g}, less "
                    f"than the {self.epsilon:g} of the threat model; leave it out there"
                )
        if all(choice.get("norm", self.norm) != self.norm for choice in self.attacks):
            raise ValueError(f"suite must attack at least once in the threat model's {self.norm}")
