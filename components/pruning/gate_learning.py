"""Gates and weights learnt together on clean and adversarial images, each by its own loss."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import backward
from torch.optim import Adam

from components.attacks import ATTACKS
from components.choose import choose
from components.latent import Form, latent_features, twin_passes, vulnerability
from components.models.build import Model
from components.pruning.config import PruningConfig
from components.pruning.gates import learnt_gates, shared_noise, total_kl
from components.pruning.steps import craft, cross_entropies, mixed_loss, set_rates
from components.tensors import Images, Targets, best_device


class GateLearning:
    """Learns the gates of a model, and its weights with them.

    Args:
        gated: becomes part of it.
        settings: how.
        num_images: in the training split.
        batches: in an epoch.
        kl_scales: what the divergence of some gates is multiplied by, by the gate's name.

    Attributes:
        model: with its gates.

    Raises:
        ValueError: there is no gate of a name.
    """

    def __init__(
        self,
        gated: Model,
        settings: PruningConfig,
        num_images: int,
        batches: int,
        *,
        kl_scales: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._settings, self._num_images, self._batches = settings, num_images, batches
        self._attack = settings.attack and choose(ATTACKS, settings.attack, given=("seed",))
        self.model = gated.to(best_device())
        self._kl_scales = kl_scales
        total_kl(learnt_gates(self.model), kl_scales)  # refuses a name that is no gate's
        self._raw_gates, self._weights = _parameters(self.model)
        gates = Adam(self._raw_gates, settings.gate_learning_rate)
        weights = Adam(self._weights, settings.learning_rate, weight_decay=settings.weight_decay)
        self._optimizers = gates, weights
        self._rates = settings.gate_learning_rate, settings.learning_rate

    def victim(self) -> Model:
        """Give what is attacked: a model that decides as the gated one does in evaluation."""
        return self.model

    def step(self, images: Images, targets: Targets, number: int) -> dict[str, Tensor]:
        """Take one step of both optimizers.

        Args:
            images: float32 in [0, 1].
            targets: class probabilities.
            number: steps so far.

        Returns:
            What `pruning_losses` gives.
        """
        settings = self._settings
        total = settings.epochs * self._batches
        set_rates(zip(self._optimizers, self._rates, strict=True), settings, number, total)
        attacked = None
        if self._attack:
            attacked = craft(self._attack, self.victim(), images, targets, settings, number)
        losses = pruning_losses(
            self.model, images, attacked, targets, settings, kl_scales=self._kl_scales
        )
        learning = (number + 1) / self._batches - settings.gate_delay_epochs
        gate_loss, weight_loss = weigh_losses(
            losses, settings, self._num_images, epoch=max(0.0, learning)
        )
        if learning > 0:
            backward(gate_loss, inputs=self._raw_gates, retain_graph=True)
        backward(weight_loss, inputs=self._weights)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return losses

    def curves(self) -> dict[str, float]:
        """Give how many units the keep probabilities of each gate add up to."""
        return {
            f"expected_units.{name}": float(gate.keep_probability().detach().sum())
            for name, gate in learnt_gates(self.model).items()
        }

    def keep_probabilities(self) -> dict[str, list[float]]:
        """Give the keep probability of every unit by the names of the gates."""
        gates = learnt_gates(self.model)
        return {name: gate.keep_probability().tolist() for name, gate in gates.items()}

    def state(self) -> dict[str, Any]:
        """Give all that decides how it goes on."""
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)


def pruning_losses(
    gated: Model,
    images: Images,
    attacked: Images | None,
    targets: Targets,
    settings: PruningConfig,
    *,
    kl_scales: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """Give what ANP-VS weighs, of one batch and the same images after the attack.

    Args:
        gated: in training mode.
        images: float32 in [0, 1].
        attacked: the same images, attacked; None where nothing attacks.
        targets: class probabilities.
        settings: how the two pass, what they share, and the form of the vulnerability.
        kl_scales: see `GateLearning`.

    Returns:
        ``clean_loss`` and ``adversarial_loss``, mean cross-entropies; ``kl`` of all gates;
        ``vulnerability``. Without an attack, the first and ``kl``.
    """
    gates = learnt_gates(gated)
    if attacked is None:
        return {**cross_entropies(gated(images), None, targets), "kl": total_kl(gates, kl_scales)}
    shared = settings.noise == "shared"
    if settings.forwards == "separate":
        clean, adversarial, features = twin_passes(gated, images, attacked, shared_noise=shared)
    else:
        copies = 2 if shared else 1
        with shared_noise(gates.values(), copies), latent_features(gated) as features:
            clean, adversarial = gated(torch.cat([images, attacked])).chunk(2)
    form = cast("Form", settings.vulnerability_form)
    return {
        **cross_entropies(clean, adversarial, targets),
        "kl": total_kl(gates, kl_scales),
        "vulnerability": vulnerability(features, form=form, skip_first=settings.skip_first_feature),
    }


def weigh_losses(
    losses: dict[str, Tensor], settings: PruningConfig, num_images: int, *, epoch: float
) -> tuple[Tensor, Tensor]:
    """Give the loss of the gates and the loss of the weights.

    With CE the cross-entropy on clean and adversarial images, N training images, β ``kl_weight``
    and λ ``vulnerability_weight``, the published choice is

        gates: CE_adv + β·KL / N        weights: (CE_clean + 2·CE_adv) / 3 + λ·V

    and without an attack CE_clean + β·KL / N for both. The KL does not depend on the weights, so
    their loss leaves it out.

    Args:
        losses: as `pruning_losses` gives them.
        settings: weigh them.
        num_images: N.
        epoch: epochs since the gates began to learn, this step included, for the warm-up of β.
    """
    mixture = weight_loss = mixed_loss(losses)
    if "vulnerability" in losses:
        weight_loss = mixture + settings.vulnerability_weight * losses["vulnerability"]
    gate_loss = {
        "adversarial": losses.get("adversarial_loss", mixture),
        "mixture": mixture,
        "mixture_and_vulnerability": weight_loss,
    }[settings.gate_loss]
    kl_weight = settings.kl_weight
    if settings.kl_warmup_epochs:
        kl_weight *= min(1.0, epoch / settings.kl_warmup_epochs)
    return gate_loss + kl_weight * losses["kl"] / num_images, weight_loss


def _parameters(gated: Model) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Divide the parameters into those of the gates and all others."""
    raw_gates = [p for gate in learnt_gates(gated).values() for p in gate.parameters()]
    theirs = {id(parameter) for parameter in raw_gates}
    return raw_gates, [p for p in gated.parameters() if id(p) not in theirs]
