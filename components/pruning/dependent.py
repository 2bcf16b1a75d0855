"""Gates that depend on the image, learnt under attack in a network that pruning has left."""

import copy
from dataclasses import replace

from components.models.build import Model
from components.models.dependent_gates import add_dependent_gates
from components.pruning.config import PruningConfig
from components.pruning.gate_learning import GateLearning
from components.pruning.gates import prunable_units


class DependentPruning(GateLearning):
    """Learns dependent Beta-Bernoulli gates in a copy of a model.

    Lee et al., 2018, https://arxiv.org/abs/1805.10896. They learn them after the gates that are the
    same for all images, which are part of the weights once `GatedPruning` is done: start from its
    model. ANP-VS does without them. No unit is cut out, for each image closes others.

    Args:
        model: trained; its own normalisation and defences stay.
        settings: how; what they say of the initial keep probability and the threshold is for gates
            that are the same for all images.
        num_images: in the training split.
        batches: in an epoch.

    Raises:
        ValueError: no gates fit the backbone, or it has such gates.
    """

    def __init__(
        self, model: Model, settings: PruningConfig, num_images: int, batches: int
    ) -> None:
        prunable_units(model)  # refuses what no gates fit
        gated = copy.deepcopy(model)
        add_dependent_gates(gated.backbone, gated.spec.image_shape)
        gated.spec = replace(gated.spec, backbone={**gated.spec.backbone, "dependent_gates": True})
        super().__init__(gated, settings, num_images, batches)

    def note(self) -> str:
        """Say in a few words how far it is."""
        kept = sum(self.curves().values())
        return f"{kept:.0f} units expected for an image"

    def finish(self) -> tuple[Model, Model]:
        """Give the model, twice: nothing is cut out."""
        model = self.model.cpu().eval()
        return model, model
