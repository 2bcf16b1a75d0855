"""What is compared: each attack, on which model, with which options, and what is aimed at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import peers
import torch
from models import EPSILON
from peers import Attack, Peers
from torch import Tensor, nn

from components.attacks import ATTACKS
from components.attacks.acceleration import search_copy, searched, searched_nearest
from components.evaluation.config import EvaluationConfig
from components.evaluation.measure import measure
from components.evaluation.suites import SUITES, at_budget

L2_EPSILON = 2.0
PGD_STEPS, APGD_STEPS, QUERIES = 20, 100, 1000
_EXAMPLES = 64  # images on which a copy must agree with its model
_SUITE_GOALS = {
    "trained": {"standard": 0.35, "fast": 0.10},
    "undefended": {"standard": 0.02},
}
CW_STEPS, CW_SEARCHES, CW_CONSTANT = 100, 3, 10.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack on one model, ours and everybody else's.

    Attributes:
        name: what ``--only`` selects by.
        model: an entry of MODELS.
        ours: our attacks by name; the first is the one the goals are for.
        peers: theirs.
        units: forward passes with gradient that the floor takes; 0 where it has no meaning.
        norm: of the ball, or the one that is minimised.
        epsilon: radius of the ball; None where the smallest perturbation is looked for.
        peer_goals: CPU time at most of some of ours, as a share of the fastest peer's.
        floor_goal: CPU time at most, in floors.
        judge: the peer whose verdicts and time count; None takes the fastest of those that find
            anything like what the best one finds.
        rounds: at most, for what takes long.
        images: at most, for what takes long.
    """

    name: str
    model: str
    ours: Peers
    peers: Peers
    units: int = 0
    norm: str = "linf"
    epsilon: float | None = EPSILON
    peer_goals: Mapping[str, float] = field(default_factory=dict)
    floor_goal: float | None = None
    judge: str | None = None
    rounds: int = 100
    images: int = 100_000


def rows() -> list[Row]:
    """Give all comparisons; those whose attack does not exist yet are left out."""
    step, stride_l2 = 2.5 * EPSILON / PGD_STEPS, 2.5 * L2_EPSILON / PGD_STEPS
    pgd = peers.pgd(EPSILON, PGD_STEPS, step)
    pgd_l2 = peers.pgd_l2(L2_EPSILON, PGD_STEPS, stride_l2)
    small = 8 / 255
    resnet_pgd = peers.pgd(small, PGD_STEPS, 2.5 * small / PGD_STEPS)
    climbs = {"steps": PGD_STEPS, "keep": "first"}
    followed = {"steps": PGD_STEPS, "keep": "best"}
    table = [
        ("fgsm", "trained", {}, peers.fgsm(EPSILON), {"units": 1}),
        ("pgd", "trained", climbs, pgd, {"units": PGD_STEPS, "peer_goal": 0.30}),
        ("pgd", "undefended", climbs, pgd, {"units": PGD_STEPS, "peer_goal": 0.10}),
        ("pgd", "trained", followed, {}, {"units": PGD_STEPS, "floor_goal": 1.03}),
        (
            "pgd",
            "resnet18",
            followed,
            resnet_pgd,
            {"units": PGD_STEPS, "floor_goal": 1.03, "epsilon": small, "rounds": 1, "images": 16},
        ),
        (
            "pgd",
            "trained",
            climbs | {"norm": "l2"},
            pgd_l2,
            {"units": PGD_STEPS, "peer_goal": 0.40, "norm": "l2", "epsilon": L2_EPSILON},
        ),
        (
            "apgd",
            "trained",
            {"steps": APGD_STEPS},
            peers.apgd(EPSILON, APGD_STEPS),
            {"units": APGD_STEPS, "peer_goal": 0.17},
        ),
        (
            "apgd_targeted",
            "trained",
            {"steps": APGD_STEPS},
            peers.apgd_targeted(EPSILON, APGD_STEPS),
            {"rounds": 1},
        ),
        (
            "carlini_wagner",
            "trained",
            {
                "steps": CW_STEPS,
                "search_steps": CW_SEARCHES,
                "constant": CW_CONSTANT,
                "abort_early": False,
                "epsilon": None,
                "norm": "l2",
            },
            peers.carlini_wagner(CW_STEPS, CW_SEARCHES, CW_CONSTANT),
            {
                "units": CW_STEPS * CW_SEARCHES,
                "peer_goal": 0.60,
                "norm": "l2",
                "epsilon": None,
                "rounds": 2,
                "images": 128,
            },
        ),
        (
            "deepfool",
            "trained",
            {"steps": 50, "epsilon": None, "norm": "l2"},
            peers.deepfool(50),
            {"norm": "l2", "epsilon": None, "rounds": 1, "images": 64},
        ),
        (
            "fab",
            "trained",
            {"steps": 100, "epsilon": None},
            peers.fab(EPSILON, 100),
            {"epsilon": None, "rounds": 1, "images": 64},
        ),
        (
            "square",
            "trained",
            {"queries": QUERIES},
            peers.square(EPSILON, QUERIES),
            {"rounds": 1, "images": 64},
        ),
    ]
    found = [_row(*entry) for entry in table if entry[0] in ATTACKS]
    suites = {suite: _suite(suite) for suite in ("standard", "fast")}
    suites["standard, with checks"] = _evaluation("standard")
    if all(choice["name"] in ATTACKS for choice in SUITES["standard"]):
        for model, goals in _SUITE_GOALS.items():
            found.append(
                Row(
                    name="standard",
                    model=model,
                    ours=suites,
                    peers=peers.standard(EPSILON),
                    peer_goals=goals,
                    judge="official",
                    rounds=1,
                )
            )
    return found


def _row(
    name: str, model: str, options: dict[str, Any], theirs: Peers, facts: dict[str, Any]
) -> Row:
    settings = {"epsilon": facts.get("epsilon", EPSILON)} | options
    attack = partial(ATTACKS[name], **settings)
    search = searched_nearest if settings["epsilon"] is None else searched
    searched_on_copy = {"bartizan": _on_copy(attack, search)}
    plain = {"bartizan on the model": attack}
    ours = searched_on_copy | plain
    if facts.get("floor_goal"):  # which is of the model itself
        ours = plain | searched_on_copy
    if "peer_goal" in facts:
        facts["peer_goals"] = {next(iter(ours)): facts.pop("peer_goal")}
    return Row(name=name, model=model, ours=ours, peers=theirs, **facts)


def _on_copy(attack: Attack, search: Callable[[Attack, nn.Module], Attack]) -> Attack:
    """Search on a faster copy of the model, as an evaluation does; making it is timed as well."""

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        copy = search_copy(model, images[:_EXAMPLES])
        return (search(attack, copy) if copy is not None else attack)(model, images, labels)

    return run


def _suite(name: str) -> Attack:
    """Run a suite's attacks, each on the images that are left, all on one copy."""

    @torch.no_grad()
    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        copy = search_copy(model, images[:_EXAMPLES])
        adversarial = images.clone()
        for choice in SUITES[name]:
            left = (model(adversarial).argmax(1) == labels).nonzero().flatten()
            if not len(left):
                break
            settings = at_budget(choice, norm="linf", epsilon=EPSILON, num_pixels=images[0].numel())
            attack = partial(ATTACKS[settings.pop("name")], **settings)
            attack = attack if copy is None else searched(attack, copy)
            adversarial[left] = attack(model, images[left], labels[left])
        return adversarial

    return run


def _evaluation(suite: str) -> Attack:
    """Measure all that a report holds: the suite, distances, the curve and the checks."""
    settings = EvaluationConfig(epsilon=EPSILON, suite=({"name": suite},))

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return measure(model, images, labels, settings).strongest.images

    return run
