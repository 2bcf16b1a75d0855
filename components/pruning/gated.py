"""ANP-VS: gates learnt with the weights under attack, and closed units really cut out."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from components.models.build import Model
from components.pruning.compact import compact_model, hold_last_units
from components.pruning.config import PruningConfig
from components.pruning.gate_learning import GateLearning
from components.pruning.gates import gate_model, gates_in
from components.tensors import Images, Targets


class GatedPruning(GateLearning):
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
        gated = gate_model(
            model,
            threshold=settings.threshold,
            initial_keep_probability=settings.initial_keep_probability,
            after_activation=after_activation,
        )
        super().__init__(gated, settings, num_images, batches, kl_scales=kl_scales)

    def victim(self) -> Model:
        """Give the narrower model, which decides as the gated one and is cheaper to attack."""
        return compact_model(self.model)

    def step(self, images: Images, targets: Targets, number: int) -> dict[str, Tensor]:
        """Take one step, see `GateLearning.step`, in a model of which no layer is closed."""
        hold_last_units(self.model)
        return super().step(images, targets, number)

    def curves(self) -> dict[str, float]:
        """Give open units per gate, and how many units its keep probabilities add up to."""
        gates = gates_in(self.model).items()
        return {
            **{f"open_units.{name}": float(gate.is_open().sum()) for name, gate in gates},
            **super().curves(),
        }

    def note(self) -> str:
        """Say in a few words how far it is."""
        return f"{sum(int(g.is_open().sum()) for g in gates_in(self.model).values())} units open"

    def finish(self) -> tuple[Model, Model]:
        """Give the gated model and the narrower one that decides like it."""
        hold_last_units(self.model)
        return self.model.cpu().eval(), compact_model(self.model).cpu()
