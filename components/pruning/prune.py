"""Learn gates under attack, cut out the closed units, and keep the narrower network."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import backward
from torch.nn import functional
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from components.attacks import ATTACKS
from components.choose import choose
from components.data.batches import Split, in_order, read_split, shuffled
from components.data.index import read_index
from components.defences.defended import honest_view
from components.models.build import Model
from components.models.checkpoint import hash_checkpoint, load_checkpoint, save_checkpoint
from components.models.costs import costs
from components.models.latent import latent_features, vulnerability
from components.pruning.compact import compact_model, hold_last_units
from components.pruning.config import PruningConfig
from components.pruning.gates import (
    gate_model,
    gates_in,
    prunable_backbone,
    shared_noise,
    total_kl,
)
from components.tensors import Images, Labels, best_device
from components.tracking import UNTRACKED, Run

_DROPS, _DROP_FACTOR = (0.5, 0.7), 0.1  # shares of all steps, as published for LeNet-5
_LARGEST_DIFFERENCE = 1e-4


class InexactPruning(RuntimeError):
    """A narrower network that does not decide as the gated one it was cut from."""


def prune(
    settings: PruningConfig, *, data: Path, initial: Path, target: Path, run: Run = UNTRACKED
) -> dict[str, float]:
    """Prune a model through gates that are learnt on adversarial images.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355, ANP-VS. Differs from the published code:
    clean and adversarial images share the noise of the gates, every latent feature is optimised,
    no layer closes entirely, and closed units are really removed.

    Args:
        settings: how.
        data: folder of shards.
        initial: checkpoint of a trained model.
        target: receives the checkpoint of the narrower model.
        run: gets curves and progress.

    Returns:
        ``sparsity``, the share of gated units removed; ``flops_ratio`` and ``size_ratio``, how many
        times fewer operations and parameters are left; ``max_logit_difference`` between gated and
        narrower model on the validation split; ``units.<layer>``, how many are left.

    Raises:
        ValueError: the settings are not as described, or no gates fit the model's backbone.
        FloatingPointError: a loss became infinite or not a number.
        InexactPruning: the narrower model differs from the gated one.
    """
    index, training = read_index(data), read_split(data, "train")
    num_images = len(training.labels)
    attack = choose(ATTACKS, settings.attack, given=("seed",))
    original = load_checkpoint(initial)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        gated = gate_model(
            original,
            threshold=settings.threshold,
            initial_keep_probability=settings.initial_keep_probability,
        ).to(best_device())
        raw_gates, weights = _parameters(gated)
        optimizers = (
            Adam(raw_gates, settings.gate_learning_rate),
            Adam(weights, settings.learning_rate, weight_decay=settings.weight_decay),
        )
        batches = -(-num_images // settings.batch_size)
        milestones = [int(share * settings.epochs * batches) for share in _DROPS]
        schedules = [MultiStepLR(optimizer, milestones, _DROP_FACTOR) for optimizer in optimizers]
        with run.progress(settings.epochs * batches, "batches") as progress:
            for epoch in range(settings.epochs):
                gated.train()
                sums: defaultdict[str, float] = defaultdict(float)
                shuffle = shuffled(training, settings.batch_size, seed=settings.seed, epoch=epoch)
                for batch, (images, labels) in enumerate(shuffle):
                    images, labels = images.to(best_device()), labels.to(best_device())
                    hold_last_units(gated)
                    # The narrower model decides as the gated one and is cheaper to attack.
                    narrower = compact_model(gated)
                    seed = settings.seed + epoch * batches + batch
                    adversarial = attack(honest_view(narrower), images, labels, seed=seed)
                    losses = pruning_losses(gated, images, adversarial, labels)
                    gate_loss, weight_loss = weigh_losses(losses, settings, num_images)
                    backward(gate_loss, inputs=raw_gates, retain_graph=True)
                    backward(weight_loss, inputs=weights)
                    for optimizer, schedule in zip(optimizers, schedules, strict=True):
                        optimizer.step()
                        optimizer.zero_grad()
                        schedule.step()
                    for name, value in losses.items():
                        sums[name] += float(value.detach()) * len(labels)
                    progress.advance(note=f"{sum(_widths(narrower))} units open")
                curves = {name: value / num_images for name, value in sums.items()}
                _check_finite(curves, epoch)
                run.metrics({**curves, **_gate_curves(gated)}, step=epoch + 1)
    hold_last_units(gated)
    compact = compact_model(gated).cpu()
    figures = _figures(original, compact)
    figures["max_logit_difference"] = _compare(gated.cpu(), compact, read_split(data, "validation"))
    provenance = {
        "stage": run.name,
        "settings": json.loads(settings.to_json()),
        "data": index.fingerprint,
        "initial": hash_checkpoint(initial),
        "figures": {**figures, **_gate_curves(gated)},
    }
    save_checkpoint(compact, target, provenance=provenance)
    return figures


def pruning_losses(
    gated: Model, images: Images, adversarial: Images, labels: Labels
) -> dict[str, Tensor]:
    """Give what ANP-VS weighs, of one batch and the same images after the attack.

    Both go through the model as one batch with the same draws of the gates, so that vulnerability
    contains the attack's effect and none of the sampling.

    Args:
        gated: in training mode.
        images: float32 in [0, 1].
        adversarial: the same images, attacked.
        labels: the true classes.

    Returns:
        ``clean_loss`` and ``adversarial_loss``, mean cross-entropies; ``kl`` of all gates;
        ``vulnerability``.
    """
    gates = gates_in(gated)
    with shared_noise(gates.values()), latent_features(gated) as features:
        clean, attacked = gated(torch.cat([images, adversarial])).chunk(2)
    return {
        "clean_loss": functional.cross_entropy(clean, labels),
        "adversarial_loss": functional.cross_entropy(attacked, labels),
        "kl": total_kl(gates),
        "vulnerability": vulnerability(features),
    }


def weigh_losses(
    losses: Mapping[str, Tensor], settings: PruningConfig, num_images: int
) -> tuple[Tensor, Tensor]:
    """Give the loss of the gates and the loss of the weights.

    With CE the cross-entropy on clean and adversarial images, N training images, β ``kl_weight``
    and λ ``vulnerability_weight``, the published choice is

        gates: CE_adv + β·KL / N        weights: (CE_clean + 2·CE_adv) / 3 + λ·V

    The KL does not depend on the weights, so their loss leaves it out.
    """
    mixture = (losses["clean_loss"] + 2 * losses["adversarial_loss"]) / 3
    faithful = settings.gate_loss == "adversarial"
    gate_loss = losses["adversarial_loss"] if faithful else mixture
    return (
        gate_loss + settings.kl_weight * losses["kl"] / num_images,
        mixture + settings.vulnerability_weight * losses["vulnerability"],
    )


def _parameters(gated: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide the parameters into those of the gates and all others."""
    raw_gates = [p for gate in gates_in(gated).values() for p in gate.parameters()]
    theirs = {id(parameter) for parameter in raw_gates}
    return raw_gates, [p for p in gated.parameters() if id(p) not in theirs]


def _gate_curves(gated: Model) -> dict[str, float]:
    """Give open units per gate, and how many units its keep probabilities add up to."""
    curves = {}
    for name, gate in gates_in(gated).items():
        curves[f"open_units.{name}"] = float(gate.is_open().sum())
        curves[f"expected_units.{name}"] = float(gate.keep_probability().detach().sum())
    return curves


def _check_finite(curves: Mapping[str, float], epoch: int) -> None:
    for name, value in curves.items():
        if not torch.isfinite(torch.tensor(value)):
            raise FloatingPointError(f"{name} became {value} in epoch {epoch + 1}")


def _figures(original: Model, compact: Model) -> dict[str, float]:
    before, after = costs(original), costs(compact)
    figures = {
        "sparsity": 1 - sum(_widths(compact)) / sum(_widths(original)),
        "flops_ratio": before["flops"] / after["flops"],
        "size_ratio": before["parameters"] / after["parameters"],
    }
    points = prunable_backbone(compact).gate_points
    for (name, _), width in zip(points, _widths(compact), strict=True):
        figures[f"units.{name}"] = float(width)
    return figures


def _widths(model: Model) -> tuple[int, ...]:
    return prunable_backbone(model).widths


@torch.no_grad()
def _compare(gated: Model, compact: Model, split: Split) -> float:
    """Give the largest difference of a logit.

    Raises:
        InexactPruning: it is too large for the two to be the same decision function.
    """
    gated.eval()
    largest = 0.0
    for images, _ in in_order(split, 256):
        difference = _logits(gated, images) - _logits(compact, images)
        largest = max(largest, float(difference.abs().max()))
    if not largest <= _LARGEST_DIFFERENCE:
        raise InexactPruning(
            f"logits of the narrower model must be within {_LARGEST_DIFFERENCE:g} of the gated "
            f"one's, got a difference of {largest:g}"
        )
    return largest


def _logits(model: Model, images: Images) -> Tensor:
    """Classify with the same draws each time, where a defence draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model(images)
