"""FGSM-RS: adversarial training with one step from a random start."""

from torch import Tensor, nn

from components.objectives.adversarial import mixture
from components.objectives.ascent import ascent
from components.objectives.crafting import Once, Precision, attack_view
from components.tensors import Images, Targets


def fgsm_rs(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    epsilon: float,
    step_share: float = 1.25,
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give the cross-entropy on images attacked by one step from anywhere in the ball.

    Wong et al., 2020, https://arxiv.org/abs/2001.03994, algorithm 3. Differs from the published
    code: the start is uniform on ball and box, and the model is attacked in evaluation mode. The
    model may learn to withstand this one step alone: see `components.training.collapse`.

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities; the attack leads away from the likeliest class.
        epsilon: radius in pixel units, for linf.
        step_share: length of the step, in radii.
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the start, one for all or one per image.

    Returns:
        ``loss``, the mean over the batch, and the same as ``adversarial_loss``.
    """

    def craft() -> Images:
        labels = targets.argmax(1)
        with attack_view(model, images, precision) as view:
            return ascent(
                view, images, labels, epsilon=epsilon, steps=1, step_share=step_share, seed=seed
            )

    return mixture(model, images, (attacked or Once())(craft), targets, 0)
