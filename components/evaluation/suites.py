"""Table SUITES: name -> the attacks that belong together."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from components.config import Choice

_APGD, _APGD_TARGETED = {"name": "apgd"}, {"name": "apgd_targeted"}
_SQUARE = {"name": "square", "queries": 5000}

SUITES: Mapping[str, tuple[Choice, ...]] = {
    # Strong enough to choose models by: what follows in `standard` hardly ever finds more.
    "fast": (_APGD, _APGD_TARGETED),
    # AutoAttack: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690.
    "standard": (_APGD, _APGD_TARGETED, {"name": "fab"}, _SQUARE),
    "plus": (
        {"name": "apgd", "restarts": 5},
        {"name": "apgd", "restarts": 5, "loss": "dlr"},
        {"name": "fab", "restarts": 5, "targets": None},
        _SQUARE,
        _APGD_TARGETED,
        {"name": "fab"},
    ),
    "rand": ({"name": "apgd", "draws": 20}, {"name": "apgd", "draws": 20, "loss": "dlr"}),
    # The columns of Pei et al., 2022, https://arxiv.org/abs/2205.10617, with the settings of
    # RobustART; how their C&W was set is not known.
    "paper": (
        {"name": "fgsm", "norm": "linf", "loss": "cross_entropy"},
        {"name": "pgd", "norm": "l1", "steps": 20, "loss": "cross_entropy", "keep": "last"},
        {"name": "pgd", "norm": "l2", "steps": 20, "loss": "cross_entropy", "keep": "last"},
        {"name": "pgd", "norm": "linf", "steps": 20, "loss": "cross_entropy", "keep": "last"},
        {"name": "carlini_wagner", "norm": "l2", "steps": 100, "search_steps": 5},
    ),
}

_PAPER_PIXELS = 3 * 224 * 224
_PAPER_LINF, _PAPER_L2, _PAPER_L1 = 8 / 255, 8.0, 1600.0
_PAPER_STEP = 3 / 40  # of the radius


def expand(words: Iterable[Choice]) -> Iterator[Choice]:
    """Put the attacks of a suite in the place of its name; other choices stay as they are.

    Raises:
        ValueError: a suite is given options.
    """
    for word in words:
        if word["name"] not in SUITES:
            yield word
            continue
        if len(word) > 1:
            raise ValueError(f"the suite {word['name']} takes no options, got {dict(word)}")
        yield from SUITES[word["name"]]


def attack_label(choice: Choice) -> str:
    """Name an attack with its options: ``pgd-20-margin``."""
    return "-".join(str(option) for option in choice.values())


def describe(suite: str) -> str:
    """Name the attacks of a suite in one line."""
    return ", ".join(attack_label(choice) for choice in SUITES[suite])


def at_budget(choice: Choice, *, norm: str, epsilon: float, num_pixels: int) -> dict[str, Any]:
    """Give an attack its norm and radius: those of the threat model, unless it names a norm.

    An attack in another norm gets the radius that the concealment table pairs with linf 8/255 at 3
    x 224 x 224 pixels, L2 8 and L1 1600, carried over to other radii and sizes: the perturbation
    of an average pixel stays the same.

    Args:
        choice: the attack.
        norm: of the threat model.
        epsilon: of the threat model.
        num_pixels: channels times height times width.
    """
    own = str(choice.get("norm", norm))
    settings = {**choice, "norm": own, "epsilon": choice.get("epsilon")}
    if settings["epsilon"] is None:
        per_pixel = epsilon / _radius_of_pixel(norm, num_pixels)
        settings["epsilon"] = (
            epsilon if own == norm else per_pixel * _radius_of_pixel(own, num_pixels)
        )
    if choice in SUITES["paper"] and choice["name"] == "pgd":
        settings["step_size"] = _PAPER_STEP * settings["epsilon"]
    return settings


def _radius_of_pixel(norm: str, num_pixels: int) -> float:
    """Give the radius of each norm that belongs to one unit of linf."""
    share = num_pixels / _PAPER_PIXELS
    return {
        "linf": 1.0,
        "l2": _PAPER_L2 / _PAPER_LINF * share**0.5,
        "l1": _PAPER_L1 / _PAPER_LINF * share,
    }[norm]
