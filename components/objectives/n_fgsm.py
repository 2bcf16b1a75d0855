"""N-FGSM: adversarial training with one step from strong noise, and nothing cut back."""

from torch import Tensor, nn

from components.attacks.gradients import check_images, input_gradient
from components.attacks.losses import logit_odds, of_logits
from components.objectives.adversarial import mixture
from components.objectives.crafting import Once, Precision, attack_view
from components.randomness import sample_seeds, uniform
from components.tensors import Images, Targets


def n_fgsm(
    model: nn.Module,
    images: Images,
    targets: Targets,
    *,
    epsilon: float,
    noise_share: float = 2.0,
    precision: Precision = None,
    attacked: Once | None = None,
    seed: int | Tensor = 0,
) -> dict[str, Tensor]:
    """Give the cross-entropy on images with noise and, from there, one step of a whole radius.

    de Jorge et al., 2022, https://arxiv.org/abs/2202.01181, algorithm 1: noise and step together
    may leave the ball, which is what keeps the model from withstanding the one step alone. Only
    pixels are kept in [0, 1].

    Args:
        model: in training mode.
        images: float32 in [0, 1].
        targets: class probabilities; the attack leads away from the likeliest class.
        epsilon: radius in pixel units, for linf, and length of the step.
        noise_share: largest noise, in radii.
        precision: of the copy that is attacked, or None for the model itself.
        attacked: crafts the adversarial images; by default they are crafted each time.
        seed: of the noise, one for all or one per image.

    Returns:
        ``loss``, the mean over the batch, and the same as ``adversarial_loss``.

    Raises:
        ValueError: epsilon lies outside [0, 1], or noise_share is negative.
    """
    if not (0 <= epsilon <= 1 and noise_share >= 0):
        raise ValueError(
            f"epsilon must be in [0, 1] and noise_share at least 0, got {epsilon} and {noise_share}"
        )
    labels = targets.argmax(1)
    check_images(images, labels)

    def craft() -> Images:
        seeds = sample_seeds(seed, len(images), images.device)
        draws = uniform(seeds, tuple(images.shape[1:]), stream=0)
        noisy = images + noise_share * epsilon * (2 * draws - 1)
        with attack_view(model, images, precision) as view:
            _, gradient, _ = input_gradient(view, noisy, of_logits(logit_odds, labels))
        return noisy.add_(gradient.sign(), alpha=epsilon).clamp_(0, 1)

    return mixture(model, images, (attacked or Once())(craft), targets, 0)
