"""Bayesian layers: adversarial training of a Gaussian around every weight, of which means stay."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from components.objectives.adversarial import check_share, mixture
from components.objectives.crafting import Precision, attack_view
from components.tensors import Images, Targets

_RHO = "rho_"  # begins the names of what is added to the model, and left out of its checkpoint


class Bayesian:
    """Adversarial training of weights that are drawn anew for every step.

    What Madaan et al., 2020, https://arxiv.org/abs/1908.04355, compare with as AT BNN. Each
    parameter has a mean, which is the model's own, and a deviation softplus(rho). A step draws
    once, for clean and attacked images alike. The attack, validation and what is kept in the end
    have the mean weights: an ordinary network. Differs from the published code: means start like
    the model's weights, all of BatchNorm starts as narrow as the rest, and the network's own
    logits have no ReLU.

    Args:
        attack: model, images, labels and seed to adversarial images.
        kl_weight: of the divergence from the prior, as published 1 / (100 training images).
        clean_share: weight of the clean images' loss, in [0, 1].
        prior_deviation: of the Gaussian prior around 0: 1.0 for LeNet-5, 0.1 for VGG16.
        initial_rho: -3 for LeNet-5, -5 for VGG16.
        precision: of the copy that is attacked, or None for the model itself.

    Raises:
        ValueError: the clean share lies outside [0, 1], the prior's deviation is not above 0, or
            the weight is negative.
    """

    def __init__(
        self,
        *,
        attack: Callable[..., Images],
        kl_weight: float,
        clean_share: float = 1 / 3,
        prior_deviation: float = 1.0,
        initial_rho: float = -3.0,
        precision: Precision = None,
    ) -> None:
        check_share(clean_share)
        if not (prior_deviation > 0 and kl_weight >= 0):
            raise ValueError(
                "prior_deviation must be above 0 and kl_weight at least 0, "
                f"got {prior_deviation} and {kl_weight}"
            )
        self.attack, self.kl_weight, self.clean_share = attack, kl_weight, clean_share
        self.prior_deviation, self.initial_rho = prior_deviation, initial_rho
        self.precision: Precision = precision

    def prepare(self, model: nn.Module) -> None:
        """Give the model a rho for each parameter, to be trained like these."""
        for index, mean in enumerate(list(model.parameters())):
            rho = nn.Parameter(torch.full_like(mean, self.initial_rho))
            model.register_parameter(f"{_RHO}{index}", rho)

    def __call__(
        self, model: nn.Module, images: Images, targets: Targets, *, seed: int = 0
    ) -> dict[str, Tensor]:
        """Give the mixture of `adversarial` under weights drawn once, and their divergence.

        Args:
            model: in training mode, prepared.
            images: float32 in [0, 1].
            targets: class probabilities.
            seed: of the attack and of the weights.

        Returns:
            ``loss`` and its parts ``adversarial_loss``, ``clean_loss`` and ``kl``.
        """
        with attack_view(model, images, self.precision) as view:
            attacked = self.attack(view, images, targets.argmax(1), seed=seed)
        generator = torch.Generator(images.device).manual_seed(seed)
        drawn, kl = {}, torch.zeros((), device=images.device)
        for name, mean, deviation in _gaussians(model):
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            drawn[name] = mean + deviation * noise
            kl = kl + _divergence(mean, deviation, self.prior_deviation)
        losses = mixture(
            partial(functional_call, model, drawn), images, attacked, targets, self.clean_share
        )
        loss = losses.pop("loss") + self.kl_weight * kl
        return {"loss": loss, **losses, "kl": kl.detach()}


def _gaussians(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Give the name, mean and deviation of each parameter."""
    named = dict(model.named_parameters())
    means = [name for name in named if not name.startswith(_RHO)]
    for index, name in enumerate(means):
        yield name, named[name], functional.softplus(named[f"{_RHO}{index}"])


def _divergence(mean: Tensor, deviation: Tensor, prior: float) -> Tensor:
    """Give KL(N(μ, σ²) || N(0, σ₀²)) = log(σ₀/σ) + (σ² + μ²) / (2σ₀²) − 1/2, summed."""
    spread = (deviation.square() + mean.square()) / (2 * prior**2)
    return ((prior / deviation).log() + spread - 0.5).sum()
