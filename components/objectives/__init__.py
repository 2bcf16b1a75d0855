"""Table OBJECTIVES: model, images, targets -> losses by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from components.attacks import ATTACKS
from components.choose import choose
from components.config import Choice
from components.objectives.adversarial import adversarial
from components.objectives.ascent import ascent
from components.objectives.awp import awp
from components.objectives.bayesian import Bayesian
from components.objectives.budgets import PixelBudget
from components.objectives.controls import CONTROLS
from components.objectives.crafting import Once
from components.objectives.cross_entropy import cross_entropy
from components.objectives.cutmix_and_mixup import cutmix_and_mixup
from components.objectives.fgsm_regularised import fgsm_regularised
from components.objectives.fgsm_rs import fgsm_rs
from components.objectives.free import Free
from components.objectives.grad_align import grad_align
from components.objectives.mart import mart
from components.objectives.masks import RULES
from components.objectives.n_fgsm import n_fgsm
from components.objectives.part import part
from components.objectives.part_m import part_m
from components.objectives.part_t import part_t
from components.objectives.restoration import Restoration
from components.objectives.trades import trades
from components.objectives.vulnerability_suppression import vulnerability_suppression
from components.objectives.warmed_up import warmed_up
from components.randomness import mix
from components.tensors import Images, Targets

OBJECTIVES: dict[str, Callable[..., Any]] = {
    "adversarial": adversarial,
    "awp": awp,
    "bayesian": Bayesian,
    "cross_entropy": cross_entropy,
    "cutmix_and_mixup": cutmix_and_mixup,
    "fgsm_regularised": fgsm_regularised,
    "fgsm_rs": fgsm_rs,
    "free": Free,
    "grad_align": grad_align,
    "mart": mart,
    "n_fgsm": n_fgsm,
    "part": part,
    "part_m": part_m,
    "part_t": part_t,
    "restoration": Restoration,
    "trades": trades,
    "vulnerability_suppression": vulnerability_suppression,
    "warmed_up": warmed_up,
}

_ASCENT = {"ascent": ascent}
_GIVEN = ("seed", "rows", "epoch", "attacked")  # by whoever calls the objective


class Objective:
    """A chosen objective with its options.

    Args:
        name: of the entry.
        function: from model, images and targets to losses by name.

    Attributes:
        replays: times that the loop takes the same batch, one after the other.
        prepares: whether it trains more than the model's own weights, see `prepare`.
    """

    def __init__(self, name: str, function: Callable[..., dict[str, Tensor]]) -> None:
        self.name, self._function = name, function
        self._takes = inspect.signature(function).parameters
        self.replays: int = getattr(function, "replays", 1)
        self.prepares = hasattr(function, "prepare")

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        targets: Targets,
        *,
        seed: int = 0,
        rows: Tensor | None = None,
        epoch: int = 0,
        attacked: Once | None = None,
    ) -> dict[str, Tensor]:
        """Give the losses of a batch; ``loss`` is what training descends.

        Args:
            model: in training mode.
            images: float32 in [0, 1].
            targets: class probabilities.
            seed: of all that is random.
            rows: positions of the images in their split. With them, an objective whose seed may be
                one per image draws the same for an image in whatever part of a batch it comes.
            epoch: of the training, counted from 0.
            attacked: crafts the adversarial images, if somebody wants the same ones again.

        Raises:
            ValueError: adversarial images are wanted of an objective that has none to give.
        """
        given: dict[str, Any] = {"seed": seed}
        if "rows" in self._takes:
            given["rows"] = rows
        elif rows is not None and self._takes["seed"].annotation == int | Tensor:
            given["seed"] = mix(rows, seed)
        if "epoch" in self._takes:
            given["epoch"] = epoch
        if attacked is not None:
            if "attacked" not in self._takes:
                raise ValueError(f"{self.name!r} crafts no adversarial images to be used again")
            given["attacked"] = attacked
        return self._function(model, images, targets, **given)

    def prepare(self, model: nn.Module) -> None:
        """Give the model what else is to be trained; few objectives need more than its weights."""
        if self.prepares:
            self._function.prepare(model)  # type: ignore[attr-defined]

    def state(self) -> dict[str, Tensor]:
        """Give what has to be kept to go on from here: most objectives remember nothing."""
        state: dict[str, Tensor] = getattr(self._function, "state", dict)()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        if state:
            self._function.restore(state)  # type: ignore[attr-defined]


def choose_objective(choice: Choice) -> Objective:
    """Look up an objective; what else its options choose is looked up as well.

    An attack comes from ATTACKS, or is ``ascent``; objectives that wrap others name these.

    Raises:
        ValueError: a name or an option is unknown, or a required option is missing.
    """
    name = choice.get("name")
    options = {key: _chosen(key, value, str(name)) for key, value in choice.items()}
    function = choose(OBJECTIVES, options, given=_GIVEN)
    if inspect.isclass(OBJECTIVES[choice["name"]]):
        function = function()
    return Objective(choice["name"], function)


def _chosen(option: str, value: Any, objective: str) -> Any:
    """Look up what an option of an objective chooses."""
    if option in ("objective", "first", "then"):
        wrapped = choose_objective(_as_choice(option, value))
        if wrapped.replays > 1:
            raise ValueError(f"{objective!r} cannot wrap {wrapped.name!r}, which replays batches")
        if wrapped.prepares:
            raise ValueError(f"{objective!r} cannot wrap {wrapped.name!r}, which adds parameters")
        return wrapped
    if option == "budget":
        return _budget(value)
    if option != "attack":
        return value
    given: tuple[str, ...] = ("seed",)
    if objective.startswith("part"):
        given += ("epsilon",)
    if objective in ("trades", "part_t"):
        return choose(_ASCENT, _as_choice(option, value), given=(*given, "loss"))
    return choose({**ATTACKS, **_ASCENT}, _as_choice(option, value), given=given)


def _budget(options: Any) -> PixelBudget:
    if not isinstance(options, Mapping):
        raise ValueError(f'budget must be {{"epsilon": ..., "low_epsilon": ...}}, got {options!r}')
    chosen = dict(options)
    if chosen.get("rule") is not None:
        chosen["rule"] = choose(RULES, chosen["rule"])
    if chosen.get("control") is not None:
        chosen["control"] = choose(CONTROLS, chosen["control"], given=("seed",))
    return choose({"budget": PixelBudget}, {**chosen, "name": "budget"})()


def _as_choice(option: str, value: Any) -> Choice:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise ValueError(f'{option} must be {{"name": ..., options}}, got {value!r}')
    return dict(value)
