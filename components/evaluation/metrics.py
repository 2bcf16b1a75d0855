"""The figures of the papers, from what was measured."""

import math

import torch

from components.attacks.gradients import untouched
from components.evaluation.measure import Measurement
from components.latent import latent_features, names_latent_features, vulnerability
from components.tensors import PerSample


def attack_robustness(shares: PerSample, clean_shares: PerSample) -> float:
    """Give AR: of the images that are right without attack, the share still right under it.

    RobustART, https://arxiv.org/abs/2109.05211; robust accuracy is AR times clean accuracy.

    Args:
        shares: per image, share of draws right under attack, at most the clean share.
        clean_shares: without attack.
    """
    right = float(clean_shares.double().sum())
    return float(shares.double().sum()) / right if right else 0.0


def paper_metrics(measured: Measurement) -> dict[str, float]:
    """Give the figures by which the four systems were published, each under its own name.

    ``attack_robustness`` is the worst case over all attacks; ``transfer_accuracy.NAME`` that of
    images made on a surrogate; ``median_distance`` goes over the images that are right without
    attack and is left out where most of them could not be fooled at all; ``vulnerability.mean``
    and ``vulnerability.sum`` compare latent features of clean and worst adversarial images.
    """
    subject = measured.subject
    figures = {"attack_robustness": attack_robustness(measured.robust, subject.clean_shares)}
    for outcome in measured.outcomes:
        _, _, surrogate = outcome.view.partition("transfer/")
        if surrogate:
            figures[f"transfer_accuracy.{surrogate}"] = float(outcome.shares.double().mean())
    if measured.distances is not None and bool(subject.right.any()):
        median = float(measured.distances[subject.right].median())
        if math.isfinite(median):
            figures["median_distance"] = median
    if names_latent_features(subject.model):
        figures |= _vulnerability(measured)
    return figures


@torch.no_grad()
def _vulnerability(measured: Measurement) -> dict[str, float]:
    """Average over all images, not over the last batch as the published code does."""
    subject = measured.subject
    sums = {"mean": 0.0, "sum": 0.0}
    batches = zip(
        subject.images.split(subject.settings.batch_size),
        measured.strongest.images.split(subject.settings.batch_size),
        strict=True,
    )
    with untouched(subject.model), torch.random.fork_rng():
        torch.manual_seed(subject.settings.seed)
        for clean, adversarial in batches:
            with latent_features(subject.model) as features:
                subject.model(torch.cat([clean, adversarial]))
            sums["mean"] += len(clean) * float(vulnerability(features))
            sums["sum"] += len(clean) * float(vulnerability(features, form="sum"))
    return {f"vulnerability.{form}": total / len(subject.images) for form, total in sums.items()}
