"""Two-phase losses: the gate, whom it lets learn, and that the toy problem is learned."""

import pytest
import torch
from torch import nn

from components.defences.two_phase import (
    add_uniform_noise,
    find_decoder,
    restoration_loss,
    two_phase_losses,
)

TARGETS = torch.eye(4)[torch.arange(8) % 4]
CLOSED = {"threshold": 1e-9}
OPEN = {"threshold": 1e9}


def learners(decoder, losses):
    """Names of the parameters that the loss moves."""
    decoder.zero_grad()
    losses["loss"].backward()
    return {name for name, p in decoder.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("front_and_restore", ("inner.stem", "inner.block", "restoration")),
        ("restore", ("restoration",)),
        ("enlarge", ("restoration.enlarge",)),
    ],
)
def test_closed_gate_trains_exactly_what_is_meant(scope, expected, decoded, pictures):
    decoder = decoded().train()
    [losses] = two_phase_losses(decoder, pictures, TARGETS, gate_scope=scope, **CLOSED)
    everything = {name for name, _ in decoder.named_parameters()}
    meant = {name for name in everything if name.startswith(expected)}
    assert learners(decoder, losses) == meant and losses["gate"] == 0
    assert losses.keys() == {"loss", "restoration", "gate"}


@pytest.mark.parametrize("second", ["summed", "through", "none"])
def test_open_gate_trains_everything(second, decoded, pictures):
    decoder = decoded().train()
    [losses] = two_phase_losses(decoder, pictures, TARGETS, second=second, **OPEN)
    assert learners(decoder, losses) == {name for name, _ in decoder.named_parameters()}
    assert losses["gate"] == 1
    assert all(p.grad.isfinite().all() for p in decoder.parameters())


def test_open_gate_adds_up_what_the_paper_does(decoded, pictures):
    """In evaluation mode, where the order of passes has no effect."""
    decoder = decoded()
    noisy = add_uniform_noise(pictures, 0.01, seed=3)
    [losses] = two_phase_losses(
        decoder,
        pictures,
        TARGETS,
        noisy=noisy,
        classification_weight=2.0,
        restoration_weight=3.0,
        second_restoration_weight=0.1,
        **OPEN,
    )
    first = decoder.parts(noisy)
    second = decoder.parts(first.front.restored)
    cross_entropy = nn.functional.cross_entropy
    expected = (
        2 * cross_entropy(first.logits, TARGETS)
        + 3 * (first.front.restored - pictures).square().mean()
        + 2 * cross_entropy(second.logits, TARGETS)
        + 0.1 * (second.front.restored - pictures).square().mean()
    )
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_through_lets_the_second_phase_reach_what_restored(decoded, pictures):
    gradients = []
    for second in ("summed", "through"):
        decoder = decoded(trunk="separate", middle="restored")
        [losses] = two_phase_losses(
            decoder, pictures, TARGETS, second=second, restoration_weight=0.0, **OPEN
        )
        losses["loss"].backward()
        gradients.append(decoder.restoration.top.weight.grad)
    assert not torch.allclose(*gradients)


def test_gate_opens_at_the_threshold(decoded, pictures):
    decoder = decoded()
    error = restoration_loss(decoder.restore(pictures).restored, pictures).item()
    for threshold, gate in [(error * 0.999, 0), (error * 1.001, 1)]:
        [found] = two_phase_losses(decoder, pictures, TARGETS, threshold=threshold)
        assert found["gate"] == gate
        assert found["restoration"].item() == pytest.approx(error, rel=1e-5)


def test_an_image_that_is_black_everywhere_is_off_by_less_than_1(pictures):
    assert 0 < restoration_loss(torch.zeros_like(pictures), pictures) < 1


def test_noise_stays_within_its_radius():
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    moved = add_uniform_noise(images, 0.25, seed=1) - images
    assert moved.abs().max() <= 0.2501 and abs(moved.mean()) < 0.01
    assert moved.square().mean().item() == pytest.approx(0.25**2 / 3, rel=0.1)
    same = add_uniform_noise(images, 0.25, seed=1) - images
    assert torch.equal(moved, same)


def test_restoration_and_labels_are_learned(decoded):
    """Four brightnesses on a toy network, from a closed gate on.

    With norms of its own for each pass, since averages that mix both mislead so small a network in
    evaluation mode, and without the cubic terms that make it learn by leaps.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(16) % 4
    images = 0.2 * labels.view(-1, 1, 1, 1) + 0.1 + torch.zeros(16, 3, 16, 16)
    images = images + 0.05 * torch.rand(images.shape, generator=generator)
    decoder = decoded(scale=5.0, trunk="own_norms", denoise="projected").train()
    optimizer = torch.optim.Adam(decoder.parameters(), 0.003)
    seen = []
    for step in range(80):
        noisy = add_uniform_noise(images, 0.01, seed=step)
        [losses] = two_phase_losses(
            decoder, images, torch.eye(4)[labels], noisy=noisy, threshold=0.3
        )
        optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()
        seen.append(losses)
    assert seen[0]["gate"] == 0 and seen[-1]["gate"] == 1
    assert seen[-1]["restoration"] < 0.5 * seen[0]["restoration"]
    with torch.no_grad():
        assert (decoder.eval()(images).argmax(1) == labels).double().mean() > 0.9


def test_decoder_is_found_in_a_model(decoded):
    decoder = decoded()
    assert find_decoder(nn.Sequential(decoder)) is decoder
    with pytest.raises(ValueError, match="put the defence 'feature_pyramid_decoder' on it"):
        find_decoder(nn.Flatten())


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"restoration_weight": -1.0}])
def test_wrong_numbers(options, decoded, pictures):
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        next(two_phase_losses(decoded(), pictures, TARGETS, **options))


def test_clean_images_have_their_share_of_the_first_phase(decoded, pictures):
    """In evaluation mode, where passes do not change each other."""
    decoder, noisy = decoded(), add_uniform_noise(pictures, 0.1, seed=3)
    options = {"second": "none", **OPEN}
    [clean] = two_phase_losses(decoder, pictures, TARGETS, **options)
    [attacked] = two_phase_losses(decoder, pictures, TARGETS, noisy=noisy, **options)
    [mixed] = two_phase_losses(decoder, pictures, TARGETS, noisy=noisy, clean_share=0.25, **options)
    expected = 0.25 * clean["loss"] + 0.75 * attacked["loss"]
    assert torch.allclose(mixed["loss"], expected, atol=1e-6)
    assert torch.equal(mixed["restoration"], attacked["restoration"])
    with pytest.raises(ValueError, match=r"clean_share must be in \[0, 1\], got 2"):
        next(two_phase_losses(decoder, pictures, TARGETS, noisy=noisy, clean_share=2, **options))
