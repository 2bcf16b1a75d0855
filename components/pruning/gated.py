"""ANP-VS: gates and weights learnt together on adversarial images, each by its own loss."""

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
from components.pruning.compact import compact_model, hold_last_units
from components.pruning.config import PruningConfig
from components.pruning.gates import gate_model, gates_in, shared_noise, total_kl
from components.pruning.steps import craft, cross_entropies, mixed_loss, set_rates
from components.tensors import Images, Targets, best_device


class GatedPruning:
    """Learns gates in a copy of a model, and gives the narrower one that they leave.

    Madaan et al., 2020, https://arxiv.org/abs/1908.04355, ANP-VS. Differs from the published code:
    clean and adversarial images share the noise of the gates, every latent feature is optimised,
    no layer closes entirely, and closed units are really removed.

    Args:
        model: trained.
        settings: how.
        num_images: in the training split.
        batches: in an epoch.
        kl_scales: what the divergence of some gates is multiplied by, by the gate's name. Lee et
            al., 2018, https://arxiv.org/abs/1805.10896, try 40 for ``conv1`` and 16 for ``conv2``
            of LeNet-5, which are few units and most of the operations.
        after_activation: gates behind BatchNorm and ReLU also in VGG16, so that closed units give
            nothing at all; all other backbones have theirs where closed units give nothing.

    Attributes:
        model: the copy.

    Raises:
        ValueError: no gates fit the backbone, or there is none of a name.
    """

    def __init__(
        self,
        model: Model,
        settings: PruningConfig,
        num_images: int,
        batches: int,
        *,
        kl_scales: Mapping[str, float] = MappingProxyType({}),
        after_activation: bool = False,
    ) -> None:
        self._settings, self._num_images, self._batches = settings, num_images, batches
        self._attack = settings.attack and choose(ATTACKS, settings.attack, given=("seed",))
        self.model = gate_model(
            model,
            threshold=settings.threshold,
            initial_keep_probability=settings.initial_keep_probability,
            after_activation=after_activation,
        ).to(best_device())
        self._kl_scales = kl_scales
        total_kl(gates_in(self.model), kl_scales)  # refuses a name that is no gate's
        self._raw_gates, self._weights = _parameters(self.model)
        gates = Adam(self._raw_gates, settings.gate_learning_rate)
        weights = Adam(self._weights, settings.learning_rate, weight_decay=settings.weight_decay)
        self._optimizers = gates, weights
        self._rates = settings.gate_learning_rate, settings.learning_rate

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
        hold_last_units(self.model)
        attacked = None
        if self._attack:
            # The narrower model decides as the gated one and is cheaper to attack.
            narrow = compact_model(self.model)
            attacked = craft(self._attack, narrow, images, targets, settings, number)
        losses = pruning_losses(
            self.model, images, attacked, targets, settings, kl_scales=self._kl_scales
        )
        gate_loss, weight_loss = weigh_losses(
            losses, settings, self._num_images, epoch=(number + 1) / self._batches
        )
        backward(gate_loss, inputs=self._raw_gates, retain_graph=True)
        backward(weight_loss, inputs=self._weights)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return losses

    def curves(self) -> dict[str, float]:
        """Give open units per gate, and how many units its keep probabilities add up to."""
        curves = {}
        for name, gate in gates_in(self.model).items():
            curves[f"open_units.{name}"] = float(gate.is_open().sum())
            curves[f"expected_units.{name}"] = float(gate.keep_probability().detach().sum())
        return curves

    def note(self) -> str:
        """Say in a few words how far it is."""
        return f"{sum(int(g.is_open().sum()) for g in gates_in(self.model).values())} units open"

    def state(self) -> dict[str, Any]:
        """Give all that decides how it goes on."""
        optimizers = [optimizer.state_dict() for optimizer in self._optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)

    def keep_probabilities(self) -> dict[str, list[float]]:
        """Give the keep probability of every unit by the names of the gates."""
        gates = gates_in(self.model)
        return {name: gate.keep_probability().tolist() for name, gate in gates.items()}

    def finish(self) -> tuple[Model, Model]:
        """Give the gated model and the narrower one that decides like it."""
        hold_last_units(self.model)
        return self.model.cpu().eval(), compact_model(self.model).cpu()


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
        kl_scales: see `GatedPruning`.

    Returns:
        ``clean_loss`` and ``adversarial_loss``, mean cross-entropies; ``kl`` of all gates;
        ``vulnerability``. Without an attack, the first and ``kl``.
    """
    gates = gates_in(gated)
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
        epoch: epochs done with this step, for the warm-up of β.
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
    raw_gates = [p for gate in gates_in(gated).values() for p in gate.parameters()]
    theirs = {id(parameter) for parameter in raw_gates}
    return raw_gates, [p for p in gated.parameters() if id(p) not in theirs]
